"""What a stage needs from outside, as protocols: where points, states and the finished checkpoint go.

`run_stage` with plain implementations of them is a complete training run without Prefect and MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from schemas.results.manifest import CheckpointRef, Manifest

if TYPE_CHECKING:
    from torch import Tensor


class MetricSink(Protocol):
    """Takes numbers; never decides anything."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note `metrics` at optimizer step `step`; raises StoreError when the store's disk refuses."""


class Progress(Protocol):
    """Shows a person how far a stage is."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """A stage of `total` optimizer steps begins, `done` of them in an earlier process."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` steps are behind us."""

    def note(self, message: str) -> None:
        """One line for the person watching."""


@dataclass(frozen=True)
class TrainingState:
    """Everything the loop needs to go on as if it had never stopped."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    """Plain numbers: tokens and seconds so far, sums of the metrics not yet logged."""


class StateStore(Protocol):
    """Keeps the newest states of one stage, whole or not at all."""

    def save(self, state: TrainingState) -> None:
        """Keep `state`; raises StoreError when it cannot."""

    def latest(self) -> TrainingState | None:
        """The newest whole state; None when there is none."""


class CheckpointWriter(Protocol):
    """Turns files into a checkpoint."""

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill a folder, then make it a checkpoint in one rename.

        `manifest` comes with empty `files`; the writer measures what `write` left and fills them in.
        """


@dataclass(frozen=True)
class Ports:
    """The outside of one stage."""

    sink: MetricSink
    progress: Progress
    states: StateStore
    checkpoints: CheckpointWriter
    cache: Path
    """Folder for tokenised data; may be emptied at any time."""
    mlflow_run_id: str | None = None
    log_every: int = 10
    microbatch_tokens: int = 8192
    state_minutes: float = 2.0
    gradient_share_every: int | None = None
    teacher_cache_bytes: int = 0
    """Most room for what the teachers say about every row; 0 asks them anew in every epoch."""
    stop_requested: Callable[[], bool] = field(default=lambda: False)
    """Asked after every step; True saves the state and leaves."""
    shielded: Callable[[float], AbstractContextManager[object]] = field(default=lambda _seconds: nullcontext())
    """A context within which a wish to stop interrupts nothing for so many seconds: there `stop_requested` is asked, or
    what is nearly done is finished."""
