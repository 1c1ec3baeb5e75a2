"""Kinds of tasks: one class each, from a row to the score of an answer."""
