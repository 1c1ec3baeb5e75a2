"""States are written beside training: the loop waits while its numbers are copied, not while they reach the disk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from stages.ports.protocols import StateStore, TrainingState


class StateWriter:
    """Hands states to a store, one at a time, in a thread of its own."""

    def __init__(self, states: StateStore) -> None:
        self.states = states
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state-writer")
        self._pending: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether the last state is still being written; raises what stopped it if it could not be.

        Raises:
            StoreError: the file system refused it; older states are as they were.
        """
        if self._pending is None:
            return False
        if not self._pending.done():
            return True
        self.wait()
        return False

    def save(self, state: TrainingState) -> None:
        """Begin to write `state`, whose tensors nobody else changes, when the one before is written.

        Raises:
            StoreError: the one before could not be.
        """
        self.wait()
        self._pending = self._thread.submit(self.states.save, state)

    def wait(self) -> None:
        """Return when the last state is on disk.

        Raises:
            StoreError: the file system refused it.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        """Ready to write."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last write. A refused one is of no use to a stage that ended, or failed for another reason."""
        self._thread.shutdown(wait=True)
