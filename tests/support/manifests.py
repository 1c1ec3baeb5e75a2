"""A manifest and model files like those of a finished stage."""

from __future__ import annotations

from pathlib import Path

from schemas.core.refs import FolderModel
from schemas.core.training import Training
from schemas.data.stage_data import TaskDataset
from schemas.data.tasks import DocstringTask
from schemas.recipe.objective import LabelObjective
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import Manifest

DIGEST = "ab" * 32
"""A valid digest of a stage."""


def manifest_of(digest: str = DIGEST, **changes: object) -> Manifest:
    """Return a manifest without files, as a stage passes it to its writer."""
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
    """Write a model folder and projections into `folder`."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "projections.safetensors").write_bytes(b"p" * 1000)
