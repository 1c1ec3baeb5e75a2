"""Plain ports: metrics and notes in memory, states in memory or a folder, checkpoints in a folder.

They need neither Prefect nor MLflow. What the store of the pipeline adds are locks between processes, retention, error
messages with remedies, and the reuse of finished stages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from schemas.recipe.stage import StageName
from schemas.results.manifest import CheckpointRef, Manifest
from stages.ports.protocols import Ports, TrainingState
from stages.storage.sealed_folder import (
    is_whole,
    make_whole,
    measure,
    remove,
    sync,
    sync_tree,
    unfinished,
    write_manifest,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MetricList:
    """A MetricSink that keeps every point as (step, metrics), in the order of logging."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append `metrics` at optimizer step `step`."""
        self.points.append((step, {name: float(value) for name, value in metrics.items()}))

    def values(self, name: str) -> dict[int, float]:
        """Return the last value of metric `name` at each step that has one."""
        return {step: metrics[name] for step, metrics in self.points if name in metrics}

    def names(self) -> set[str]:
        """Return the names of all metrics logged."""
        return {name for _, metrics in self.points for name in metrics}


@dataclass
class SilentProgress:
    """A Progress that prints nothing and keeps what it receives."""

    started: list[tuple[str, int, int]] = field(default_factory=list)
    done: int = 0
    notes: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Append the start of a stage of `total` optimizer steps."""
        self.started.append((description, total, done))
        self.done = done

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Set the number of finished steps."""
        self.done = done

    def phase(self, activity: str) -> None:
        """Append what is done now."""
        self.phases.append(activity)

    def note(self, message: str) -> None:
        """Append a line meant for the user."""
        self.notes.append(message)


@dataclass
class MemoryStates:
    """A StateStore in memory; copies every state, since training continues in place."""

    saved: list[TrainingState] = field(default_factory=list)

    def save(self, state: TrainingState) -> None:
        """Append a copy of `state`."""
        self.saved.append(replace(state, tensors=_copied(state.tensors), numbers=dict(state.numbers)))

    def latest(self) -> TrainingState | None:
        """Return a copy of the state saved last; None if there is none."""
        return replace(self.saved[-1], tensors=_copied(self.saved[-1].tensors)) if self.saved else None


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class SealedStates:
    """A StateStore that keeps the last state in a folder, which belongs to one stage; survives the process.

    Every file's SHA-256 is verified before a state is used.
    """

    folder: Path

    def save(self, state: TrainingState) -> None:
        """Write `state`, then remove older ones; raises OSError if the file system refuses."""

        def fill(folder: Path) -> None:
            save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, folder / "tensors")
            (folder / "numbers.json").write_text(json.dumps(dict(state.numbers)), encoding="utf-8")

        older = self._steps()
        make_whole(self._path(state.step), fill)
        for step in older:
            if step != state.step:
                remove(self._path(step))

    def latest(self) -> TrainingState | None:
        """Return the newest state whose files are undamaged; None if there is none."""
        for step in reversed(self._steps()):
            folder = self._path(step)
            if is_whole(folder):
                numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
                return TrainingState(step, _copied(load_file(folder / "tensors")), numbers)
        return None

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"


@dataclass(frozen=True)
class FolderCheckpoints:
    """A CheckpointWriter that makes one folder per stage, `STAGE-DIGEST16`, laid out and sealed as in a store."""

    folder: Path

    def folder_of(self, stage: StageName, digest: str) -> Path:
        """Return the folder of a stage's checkpoint, whether it exists or not."""
        return self.folder / f"{stage}-{digest[:16]}"

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill a folder, add the sealed manifest, and rename it; replaces an older run of the same stage.

        Raises:
            OSError: the file system refused; nothing unfinished is left.
        """
        target = self.folder_of(manifest.stage, manifest.digest)
        with unfinished(self.folder) as folder:
            write(folder)
            write_manifest(folder, manifest.model_copy(update={"files": measure(folder)}))
            sync_tree(folder)
            if target.exists():
                remove(target)
            os.replace(folder, target)
            sync(self.folder)
        return CheckpointRef(path=str(target), stage=manifest.stage, digest=manifest.digest)


def plain_ports(folder: Path, **changes: Any) -> Ports:
    """Return ports with checkpoints and cache under `folder`, everything else in memory.

    Args:
        folder: created if missing; may be shared by several stages.
        changes: fields of `Ports` that replace these, such as `states=SealedStates(...)` or `log_every=1`.
    """
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {
        "sink": MetricList(),
        "progress": SilentProgress(),
        "states": MemoryStates(),
        "checkpoints": FolderCheckpoints(folder / "checkpoints"),
        "cache": cache,
    }
    return Ports(**{**plain, **changes})
