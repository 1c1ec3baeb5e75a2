"""The objective: terms at layers and at the head, their weights and targets."""
