"""The plainest implementations of `stages/ports/protocols.py`: no Prefect, no MLflow, no retention, no locks.

With them `run_stage` is a complete training run. What they leave out (atomic writes,
verification, keeping two states) is what `pipeline/` adds and tests for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas.core.refs import FolderModel
from schemas.core.training import Training
from schemas.data.stage_data import TaskDataset
from schemas.data.tasks import DocstringTask
from schemas.recipe.objective import LabelObjective
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, FileEntry, Manifest
from stages.ports.protocols import Ports, TrainingState

DIGEST = "ab" * 32
"""A stage's digest, where any will do."""


@dataclass
class ListSink:
    """A MetricSink that keeps every point as (step, metrics), in the order it was logged."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note `metrics` at optimizer step `step`."""
        self.points.append((step, {name: float(value) for name, value in metrics.items()}))

    def values(self, name: str) -> dict[int, float]:
        """The last value of metric `name` at each step that has one."""
        return {step: metrics[name] for step, metrics in self.points if name in metrics}

    def names(self) -> set[str]:
        """Every metric name seen."""
        return {name for _, metrics in self.points for name in metrics}


@dataclass
class SilentProgress:
    """A Progress that shows nothing and remembers what it was told."""

    started: list[tuple[str, int, int]] = field(default_factory=list)
    done: int = 0
    notes: list[str] = field(default_factory=list)

    def start(self, description: str, total: int, done: int = 0) -> None:
        """A stage of `total` optimizer steps begins."""
        self.started.append((description, total, done))
        self.done = done

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` steps are behind us."""
        self.done = done

    def note(self, message: str) -> None:
        """One line for the person watching."""
        self.notes.append(message)


@dataclass
class MemoryStates:
    """A StateStore in memory.

    Keeps copies, so that a loop going on in place cannot change a saved state.
    """

    saved: list[TrainingState] = field(default_factory=list)

    def save(self, state: TrainingState) -> None:
        """Keep a copy of `state`."""
        tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        self.saved.append(replace(state, tensors=tensors, numbers=dict(state.numbers)))

    def latest(self) -> TrainingState | None:
        """The state saved last; None when there is none."""
        if not self.saved:
            return None
        state = self.saved[-1]
        return replace(state, tensors={name: tensor.clone() for name, tensor in state.tensors.items()})


@dataclass
class FolderCheckpoints:
    """A CheckpointWriter that writes straight into `folder`, with a manifest beside the files."""

    folder: Path
    committed: list[Manifest] = field(default_factory=list)

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill the folder, measure its files, write manifest.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder)
        files = {
            path.relative_to(self.folder).as_posix(): FileEntry(
                size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "manifest.sha256")
        }
        full = manifest.model_copy(update={"files": files})
        text = (full.model_dump_json(indent=1) + "\n").encode("utf-8")
        seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
        (self.folder / "manifest.sha256").write_text(seal, encoding="utf-8")
        (self.folder / "manifest.json").write_bytes(text)
        self.committed.append(full)
        return CheckpointRef(path=str(self.folder), stage=full.stage, digest=full.digest)


def fake_ports(tmp_path: Path, **changes: Any) -> Ports:
    """Ports made of the plain implementations above.

    `changes` replaces any of them by field name.
    """
    (tmp_path / "cache").mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {
        "sink": ListSink(),
        "progress": SilentProgress(),
        "states": MemoryStates(),
        "checkpoints": FolderCheckpoints(tmp_path / "checkpoint"),
        "cache": tmp_path / "cache",
    }
    return Ports(**{**parts, **changes})


def manifest_of(digest: str = DIGEST, **changes: object) -> Manifest:
    """A manifest as a stage hands it to the writer: no files yet."""
    config = StageConfig(
        name="teacher",
        teacher=None,
        student=None,
        pretrained=FolderModel(path="./model"),
        data=TaskDataset(task=DocstringTask()),
        objective=LabelObjective(),
        training=Training.model_validate({"duration": "10 steps"}),
    )
    whole = Manifest(
        stage="teacher",
        digest=digest,
        config=config,
        files={},
        metrics={"train/loss": 0.5},
        steps=10,
        tokens=100,
        seconds=1.0,
        num_parameters=5,
        versions={"python": "3"},
        created="2026-01-01T00:00:00+00:00",
    )
    return whole.model_copy(update=changes)


def write_model(folder: Path) -> None:
    """What a stage leaves: a model folder and the projections."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "projections.safetensors").write_bytes(b"p" * 1000)
