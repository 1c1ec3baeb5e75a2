"""Students cut out of their teacher by importance (Extract-Then-Distill)."""
