"""The objective: its terms at layers and at the head, their weights and targets."""
