"""The processes of a stage as a group of torch.distributed, which one process alone never imports.

Nothing is pickled: only tensors cross the wire. Sums are the same bits in every process, so weights cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor, distributed, nn

from schemas.core.errors import ProcessLost

if TYPE_CHECKING:
    from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore
else:
    from torch.distributed import FileStore, PrefixStore, Store, TCPStore

_CHUNK = 1 << 23
"""Most numbers that are sent at once: a buffer of 32 MB, small beside the activations of a step."""


class ProcessGroup:
    """A `stages.ports.world.World` of several processes.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        meeting: through what the processes find each other: file:///FILE, not there yet, whose folder decides who can,
            or tcp://HOST:PORT/NAME, a TCPStore and a name in it that no earlier group has used.
        minutes: time after which a process that waits for another gives up.
        local: rank and number among the processes of this machine; None if there is no other machine.
    """

    def __init__(
        self, rank: int, size: int, meeting: str, *, minutes: float, local: tuple[int, int] | None = None
    ) -> None:
        self.rank, self.size, self._meeting = rank, size, meeting
        self.local_rank, self.local_size = local or (rank, size)
        self._timeout = timedelta(minutes=minutes)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect the processes for the length of the block.

        A block that fails does not wait for the others: the process is about to end, which they notice.
        """
        # Numbers are summed by gloo on the CPU, without waiting for an accelerator's pending work.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _answered():
            distributed.init_process_group(
                backend, store=self._store(), rank=self.rank, world_size=self.size, timeout=self._timeout
            )
        assert (distributed.get_rank(), distributed.get_world_size()) == (self.rank, self.size)
        yield
        distributed.destroy_process_group()

    def _store(self) -> Store:
        address = urlsplit(self._meeting)
        if address.scheme == "file":
            return FileStore(unquote(address.path), self.size)
        assert address.hostname is not None
        assert address.port is not None
        return PrefixStore(address.path.strip("/"), store_at(address.hostname, address.port, self._timeout.seconds))

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over the processes, in double precision."""
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        with _answered():
            distributed.all_reduce(tensor)
        sums: list[float] = tensor.tolist()
        return sums

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their sums over the processes, in place."""
        for chunk in _chunks(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in chunk])
            with _answered():
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
            with _answered():
                distributed.broadcast(flat, 0)
            _write(flat, chunk)

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers of process 0."""
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        with _answered():
            distributed.broadcast(tensor, 0)
        values: list[float] = tensor.tolist()
        return values


def store_at(host: str, port: int, seconds: float, *, listener: int | None = None) -> Store:
    """Return the store of texts that listens at HOST:PORT.

    Args:
        host: an address.
        port: a port.
        seconds: time in which it has to answer.
        listener: file descriptor of the socket on which this process is to serve it; None connects to another's.

    Raises:
        RuntimeError: it does not answer.
    """
    timeout, serves = timedelta(seconds=seconds), listener is not None
    return TCPStore(host, port, None, serves, timeout, wait_for_workers=False, master_listen_fd=listener)


@contextmanager
def _answered() -> Iterator[None]:
    """Say that another process is lost, where torch names its own file and line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = re.sub(r"^\[[^]]*\]\s*", "", str(error).splitlines()[0]).rstrip(".")
        raise ProcessLost(f"no answer from another process ({reason})") from error


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
