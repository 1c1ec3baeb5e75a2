"""Exceptions that users see. Each message names the value, its location, what would be right and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class DistillError(Exception):
    """Base of all expected errors; the command line prints them without a traceback."""

    exit_code = 1


class ConfigError(DistillError):
    """Raised when a recipe, an override or an argument is wrong; nothing has run yet.

    Args:
        problems: every problem in one line, which names its location.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(DistillError):
    """Raised when a file, a data set or a model cannot be used as it is."""

    exit_code = 2


class CheckpointError(DistillError):
    """Raised when a checkpoint is missing, damaged or belongs to something else."""

    exit_code = 2


class StoreError(DistillError):
    """Raised when the store cannot be written to (full, read-only, not a folder); earlier stages stay usable."""


class ServiceError(DistillError):
    """Raised when a service that the run needs (Prefect's server, a model hub) cannot be reached."""


class TeacherError(DistillError):
    """Raised when the fine-tuned teacher is not good enough to learn from."""


class NonFiniteLossError(DistillError):
    """Raised when a loss or a gradient is NaN or infinite; the optimizer was not stepped."""


class OutOfMemoryError(DistillError):
    """Raised when the smallest forward pass that the objective allows does not fit into memory."""


class ProcessLost(DistillError):
    """Raised when a process of a stage ended unexpectedly; a second attempt goes on from the last state."""


class Interrupted(DistillError):
    """Raised when the user stops the run; its state is kept, and the same command resumes from it."""
