"""The work of a stage, on torch, transformers, datasets and accelerate. Imports schemas only."""
