"""A recipe and its parts: teacher, student, objective, stages, and what must agree between them."""
