"""Scores of answers against labels, with bootstrap intervals."""
