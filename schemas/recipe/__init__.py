"""A recipe and its parts: teacher, student, objective, stages, and the checks across them."""
