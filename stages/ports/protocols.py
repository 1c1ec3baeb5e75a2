"""Protocols of a stage's outside: the destinations of metrics, training states and the finished checkpoint.

stages/ports/plain.py implements them without Prefect and MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from schemas.recipe.stage import StageName
from schemas.results.manifest import CheckpointRef, Manifest
from stages.ports.world import OneProcess, World

if TYPE_CHECKING:
    from torch import Tensor


class MetricSink(Protocol):
    """Receives metrics; has no influence on training."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` at optimizer step `step`; raises StoreError if the disk refuses."""


class Progress(Protocol):
    """Shows the user the progress of a stage."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` optimizer steps, `done` of them by an earlier process."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Report that `done` steps are finished."""

    def phase(self, activity: str) -> None:
        """Show what is done now other than counted steps, such as `judging`."""

    def note(self, message: str) -> None:
        """Show a line to the user."""


@dataclass(frozen=True)
class TrainingState:
    """Everything the loop needs to continue as if it had never stopped."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    """Numbers: tokens and seconds so far, sums of metrics not logged yet."""


class StateStore(Protocol):
    """Keeps the newest states of one stage, each complete or absent."""

    def save(self, state: TrainingState) -> None:
        """Keep `state`; raises StoreError if the disk refuses."""

    def latest(self) -> TrainingState | None:
        """Return the newest complete state; None if there is none."""


class CheckpointWriter(Protocol):
    """Writes the checkpoint of a stage, and finds those that the stage reads."""

    def folder_of(self, stage: StageName, digest: str) -> Path:
        """Return the folder of a finished stage."""

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill a folder, then make it a checkpoint in one rename.

        `manifest` has empty `files`; the writer adds size and SHA-256 of every file that `write` wrote.
        """


@dataclass(frozen=True)
class Ports:
    """Outside of one stage."""

    sink: MetricSink
    progress: Progress
    states: StateStore
    checkpoints: CheckpointWriter
    cache: Path
    """Folder of tokenised data; may be emptied at any time."""
    mlflow_run_id: str | None = None
    log_every: int = 10
    microbatch_tokens: int = 8192
    state_minutes: float = 2.0
    gradient_share_every: int | None = None
    teacher_cache_bytes: int = 0
    """Largest size of the teachers' cached outputs; 0 runs the teachers in every epoch."""
    shards_teacher: bool = False
    """True if each of several processes holds only a part of the teachers."""
    world: World = field(default_factory=OneProcess)
    """The processes that train the stage."""
    stop_requested: Callable[[], bool] = field(default=lambda: False)
    """Called after every step; True saves the state and ends the stage."""
    shielded: Callable[[float], AbstractContextManager[object]] = field(default=lambda _seconds: nullcontext())
    """Context in which a request to stop interrupts nothing for a number of seconds, because the code inside checks
    `stop_requested` itself or is nearly done."""
