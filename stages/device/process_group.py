"""The processes of a stage as a group of torch.distributed, which one process alone never imports.

Nothing is pickled: only tensors cross the wire. Sums are the same bits in every process, so weights cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

_CHUNK = 1 << 23
"""Most numbers that are sent at once: a buffer of 32 MB, small beside the activations of a step."""


class ProcessGroup:
    """A `stages.ports.world.World` of several processes of one machine.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        meeting: file, not there yet, through which the processes find each other. Its folder decides who can.
        minutes: time after which a process that waits for another gives up.
    """

    def __init__(self, rank: int, size: int, meeting: Path, *, minutes: float) -> None:
        self.rank, self.size, self._meeting = rank, size, meeting.absolute()
        self._timeout = timedelta(minutes=minutes)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect the processes for the length of the block.

        A block that fails does not wait for the others: the process is about to end, which they notice.
        """
        # Numbers are summed by gloo on the CPU, without waiting for an accelerator's pending work.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, init_method=self._meeting.as_uri(), rank=self.rank, world_size=self.size, timeout=self._timeout
        )
        assert (distributed.get_rank(), distributed.get_world_size()) == (self.rank, self.size)
        yield
        distributed.destroy_process_group()

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over the processes, in double precision."""
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        distributed.all_reduce(tensor)
        sums: list[float] = tensor.tolist()
        return sums

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their sums over the processes, in place."""
        for chunk in _chunks(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in chunk])
            distributed.all_reduce(flat)
            _write(flat, chunk)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes; a parameter that has none in any process keeps none.

        AdamW leaves such a parameter alone, as a pooler that no term reads.
        """
        numbers = self.summed([parameter.grad is not None for parameter in parameters])
        gradients = []
        for parameter, number in zip(parameters, numbers, strict=True):
            if number:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        self.sum_tensors(gradients)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of process 0."""
        for chunk in _chunks(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in chunk])
            distributed.broadcast(flat, 0)
            _write(flat, chunk)

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers of process 0."""
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        distributed.broadcast(tensor, 0)
        values: list[float] = tensor.tolist()
        return values


def _chunks(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, together up to `_CHUNK` numbers, each chunk of one number format."""
    chunk: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if chunk and (size + tensor.numel() > _CHUNK or tensor.dtype != chunk[0].dtype):
            yield chunk
            chunk, size = [], 0
        chunk.append(tensor)
        size += tensor.numel()
    if chunk:
        yield chunk


@torch.no_grad()
def _write(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, values in zip(tensors, flat.split(sizes), strict=True):
        tensor.copy_(values.view_as(tensor))
