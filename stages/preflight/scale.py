"""Cost of a stage in any number of processes: operations, bytes, seconds, memory and disk, by arithmetic alone.

Nothing is read or measured here. `stages.preflight.cost` finds the numbers of a stage, `distill plan` shows what
follows from them, and `python -m benchmarks.forecast` asks about machines that are not there. Every formula is compared
with counts of the real thing (tests/unit/stages/preflight/test_scale.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.recipe.student import StudentShape
from stages.models.student import encoder_flops

_NUMBER = 4
"""Bytes of a float32, the format of weights, gradients, moments and files."""
_MOMENTS = 2
"""Numbers that AdamW keeps for each trained one."""
SUMS_IN_A_STEP = 5
"""Sums of a few numbers that processes wait for in a step: counts, three questions whether all go on, gradients."""
_STATES = 3
"""States on disk at once: two are kept, and one is being written."""


def operations_per_token(shape: StudentShape, length: float) -> float:
    """Return floating-point operations of an encoder's forward pass per token of a row of `length` tokens.

    A backward pass has twice as many.
    """
    rows = max(int(length), 1)
    return encoder_flops(shape, sequence_length=rows) / rows


def sent_bytes(num_bytes: float, processes: int) -> float:
    """Return the bytes that each process sends so that all have a sum: 2 (n - 1) / n of its own.

    No algorithm sends less; a ring reaches it (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for
    clusters of workstations", theorem 1), and gloo and NCCL have rings.
    """
    return 2 * (processes - 1) / processes * num_bytes


@dataclass(frozen=True)
class Link:
    """Connection between two neighbours of a ring of processes."""

    bytes_per_second: float
    """In one direction."""
    seconds_per_message: float
    """Time of a message without content."""

    def sum_seconds(self, num_bytes: float, processes: int) -> float:
        """Return the time in which a ring sums up: 2 (n - 1) messages, one after the other, each 1 / n of the bytes."""
        messages = 2 * (processes - 1)
        return sent_bytes(num_bytes, processes) / self.bytes_per_second + messages * self.seconds_per_message


@dataclass(frozen=True)
class Group:
    """Processes that share every step of a stage."""

    processes: int
    rate: float
    """Floating-point operations per second of each process in a step, while the others work too."""
    gradients: Link
    """Slowest connection that gradients cross."""
    sums: Link
    """Slowest connection that sums of a few numbers cross, which gloo adds up on processors."""

    def exchange_seconds(self, gradient_bytes: float) -> float:
        """Return the time of a step in which all wait for each other's gradients and counts."""
        if self.processes == 1:
            return 0.0
        sums = SUMS_IN_A_STEP * self.sums.sum_seconds(_NUMBER, self.processes)
        return self.gradients.sum_seconds(gradient_bytes, self.processes) + sums

    def seconds(self, operations: float, steps: int, gradient_bytes: float) -> float:
        """Return the time of a stage; nothing of the exchange is hidden behind the work.

        Args:
            operations: floating-point operations of all steps.
            steps: optimizer steps.
            gradient_bytes: size of the gradient.
        """
        work = operations / (self.processes * self.rate)
        return work + steps * self.exchange_seconds(gradient_bytes)


@dataclass(frozen=True)
class Sizes:
    """Numbers that a stage holds."""

    student: int
    """Parameters of the trained model without a head."""
    projections: int = 0
    """Parameters of the objective's maps."""
    frozen: int = 0
    """Parameters of the student that do not learn."""
    teachers: int = 0
    """Parameters of all teachers without heads."""
    keeps_best: bool = False
    """True if the best weights are kept beside the last."""

    @property
    def trained(self) -> int:
        """Numbers that learn, at most: those that no term reaches are counted, such as a pooler's."""
        return self.student + self.projections - self.frozen

    @property
    def gradient_bytes(self) -> int:
        """Size of the gradient that processes exchange in a step."""
        return _NUMBER * self.trained

    @property
    def checkpoint_bytes(self) -> int:
        """Size of the stage's checkpoint, without its tokenizer."""
        return _NUMBER * (self.student + self.projections)

    @property
    def state_bytes(self) -> int:
        """Size of a training state: weights, moments, and the best weights."""
        weights = (1 + self.keeps_best) * (self.student + self.projections)
        return _NUMBER * (weights + _MOMENTS * self.trained)

    @property
    def states_bytes(self) -> int:
        """Most disk space of the stage's states, which are removed when it is finished."""
        return _STATES * self.state_bytes

    def process_bytes(self, teacher_bytes: float) -> float:
        """Return the memory of models, gradient and moments in each process, without activations.

        Args:
            teacher_bytes: bytes of each parameter of a teacher.
        """
        learner = _NUMBER * (self.student + self.projections + (1 + _MOMENTS) * self.trained)
        return learner + teacher_bytes * self.teachers


def token_bytes(tokens: float, sequences: float, *, has_types: bool = True) -> float:
    """Return the size of tokenised text on disk: ids and token types, length and beginning of each sequence."""
    return tokens * (4 + has_types) + sequences * (4 + 8)
