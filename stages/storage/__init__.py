"""Atomic files and folders, and columns of numbers mapped from disk."""
