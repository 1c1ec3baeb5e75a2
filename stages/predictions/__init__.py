"""Predictions: rows as sequences, a model's outputs for them, answers in words; only one reader imports torch."""
