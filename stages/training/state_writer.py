"""Writes states in a thread: the loop waits while tensors are copied, not while they reach the disk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from stages.ports.protocols import StateStore, TrainingState


class StateWriter:
    """Passes states to a store, one at a time, in a thread."""

    def __init__(self, states: StateStore) -> None:
        self.states = states
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state-writer")
        self._pending: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """True if the last state is still being written.

        Raises:
            StoreError: the file system refused the last state; older states are unchanged.
        """
        if self._pending is None:
            return False
        if not self._pending.done():
            return True
        self.wait()
        return False

    def save(self, state: TrainingState) -> None:
        """Start writing `state`, whose tensors must not change, once the previous state is written.

        Raises:
            StoreError: the previous state could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self.states.save, state)

    def wait(self) -> None:
        """Return when the last state is on disk.

        Raises:
            StoreError: the file system refused the state.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last write; its failure no longer matters to a stage that ended or failed."""
        self._thread.shutdown(wait=True)
