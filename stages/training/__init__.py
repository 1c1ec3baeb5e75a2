"""The training loop, its optimizer, its state, its teachers, and the selection of weights."""
