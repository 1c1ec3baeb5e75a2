"""What a stage does: torch, transformers, datasets, accelerate. Imports schemas only."""
