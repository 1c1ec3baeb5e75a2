"""The processes that train one stage together, as the training loop sees them.

stages/device/process_group.py implements them with torch.distributed. Only the loop talks to other processes, never a
loss: every process takes part in each sum as often as every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class World(Protocol):
    """All processes of a stage; every method but the attributes is called by all of them, in the same order."""

    rank: int
    """Number of this process, from 0. Process 0 writes states and the checkpoint."""
    size: int
    """Number of processes."""
    local_rank: int
    """Number of this process among those of its machine, which share a disk, from 0."""
    local_size: int
    """Number of processes of its machine."""

    def joined(self) -> AbstractContextManager[object]:
        """Connect the processes for the length of the block."""

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over the processes, in double precision."""

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their sums over the processes, in place."""

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes; a parameter that has none in any process keeps none."""

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of process 0."""

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers of process 0."""


class OneProcess:
    """The World of a stage that one process trains: nothing is sent."""

    rank = local_rank = 0
    size = local_size = 1

    def joined(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers."""
        return list(numbers)

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are."""

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Leave the gradients as they are."""

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are."""

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers."""
        return list(numbers)
