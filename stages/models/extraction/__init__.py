"""Students extracted from their teacher by importance (Extract-Then-Distill)."""
