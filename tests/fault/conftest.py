"""`distill` in this process, as the end-to-end tests have it."""

from tests.end_to_end.conftest import distill, toy_run

__all__ = ["distill", "toy_run"]
