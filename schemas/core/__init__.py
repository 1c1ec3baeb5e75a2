"""Foundations of all schemas: the frozen base, errors and their wording, references, layer maps, terms, units."""
