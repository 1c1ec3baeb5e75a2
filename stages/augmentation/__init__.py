"""Copies of a task's rows with other words, as TinyBERT makes them."""
