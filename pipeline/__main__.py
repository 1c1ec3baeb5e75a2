"""`python -m pipeline` is `distill`."""

from pipeline.program import program

program()
