"""The exceptions a person can meet. Each message says what was given, where, what would be right and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class DistillError(Exception):
    """Anything this project refuses or cannot go on with; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(DistillError):
    """A recipe, an override or an argument is wrong; nothing has run yet.

    Args:
        problems: one line each, every problem found, already naming its place.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(DistillError):
    """A file, a data set or a model that the user named cannot be used as it is."""

    exit_code = 2


class CheckpointError(DistillError):
    """A checkpoint is missing, damaged or belongs to something else."""

    exit_code = 2


class StoreError(DistillError):
    """The store cannot be written to (full, read-only, not a folder); earlier stages stay usable."""


class ServiceError(DistillError):
    """A service that the run needs (Prefect's server, a model hub) cannot be reached."""


class TeacherError(DistillError):
    """The fine-tuned teacher is not good enough to learn from."""


class NonFiniteLossError(DistillError):
    """A loss or a gradient became NaN or infinite; the optimizer was not stepped."""


class OutOfMemoryError(DistillError):
    """The smallest forward pass that the objective allows does not fit into memory."""


class Interrupted(DistillError):
    """Somebody asked the run to stop; its state is kept and the same command goes on from it."""
