"""A stage whose inputs change uses its initial inputs or is refused before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schemas.core.errors import DataError
from schemas.recipe.expand import TaskTeachers, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.prepare import load_corpus
from stages.data.readers import files
from stages.data.readers.first_reading import as_it_is_now, first_reading
from stages.data.tasks.load import load_task, task_digest
from stages.identity import changed_since, stage_digest, stage_identity
from stages.models.encoders import locate
from stages.ports.plain import SilentProgress, plain_ports
from stages.run import run_stage
from tests.support.toys import toy_recipe

ROW = '{"text_a": "a good film", "label": "good"}\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return toy_recipe(tmp_path / "in", steps=2)


def append(path: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(ROW)


@dataclass
class Meanwhile(SilentProgress):
    """Runs an action during training."""

    deed: Callable[[], None] = lambda: None

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Handle the end of a step."""
        super().advance(done, metrics)
        if done == 1:
            self.deed()


def a_teacher(recipe: Recipe) -> StageConfig:
    (config,) = teacher_configs(recipe)
    training = config.training.model_copy(update={"duration": recipe.stages[0].training.duration})
    return config.model_copy(update={"training": training})


@pytest.mark.parametrize("kind", ["grown", "gone", "other weights"])
def test_changes_to_inputs_during_training_do_not_affect_the_stage(kind: str, recipe: Recipe, tmp_path: Path) -> None:
    config = a_teacher(recipe)
    train = recipe.task.train  # type: ignore[union-attr]
    weights = locate(recipe.pretrained) / "model.safetensors"

    def change() -> None:
        if kind == "grown":
            append(train)
        elif kind == "gone":
            Path(train).unlink()
        else:
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(bytes(content))

    identity = stage_identity(config, None)
    digest = stage_digest(config, None)
    ports = plain_ports(tmp_path, progress=Meanwhile(deed=change))
    result = run_stage(config, None, ports, identity)
    assert result.checkpoint.digest == digest
    changes = changed_since(identity, config, None)
    expected = {
        "grown": "its data changed",
        "gone": "can no longer be read",
        "other weights": "the pretrained model changed",
    }
    assert changes is not None
    assert expected[kind] in changes


def test_data_changed_before_it_was_read_is_refused_before_training(recipe: Recipe, tmp_path: Path) -> None:
    config = a_teacher(recipe)
    identity = stage_identity(config, None)
    append(recipe.task.train)  # type: ignore[union-attr]
    ports = plain_ports(tmp_path)
    with pytest.raises(DataError, match="teacher: its data changed while it was read"):
        run_stage(config, None, ports, identity)
    assert not ports.sink.points  # type: ignore[attr-defined]


def test_a_file_that_changes_during_reading_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe.task is not None
    train, prepare = recipe.task.train, files._prepare  # type: ignore[union-attr]

    def slowly(path: Path, *arguments: Any) -> None:
        prepare(path, *arguments)
        append(str(path))

    monkeypatch.setattr(files, "_prepare", slowly)
    with pytest.raises(DataError, match="changed while it was read; run again once nothing writes"):
        load_task(recipe.task, tmp_path / "cache")
    monkeypatch.undo()
    assert len(load_task(recipe.task, tmp_path / "cache").train) == 161, train


def test_a_file_removed_during_reading_is_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe.task is not None
    prepare = files._prepare

    def too_late(path: Path, *arguments: Any) -> None:
        path.unlink()
        prepare(path, *arguments)

    monkeypatch.setattr(files, "_prepare", too_late)
    with pytest.raises(DataError, match=r"train\.jsonl"):
        load_task(recipe.task, tmp_path / "cache")


def test_data_is_read_once_per_run(recipe: Recipe, tmp_path: Path) -> None:
    task = recipe.task
    assert task is not None
    before = task_digest(task)
    with first_reading():
        assert len(load_task(task, tmp_path).train) == 160
        append(task.train)  # type: ignore[union-attr]
        with first_reading():  # a run inside a run, of an assistant
            assert task_digest(task) == before
        assert len(load_task(task, tmp_path, droppable=1).train) == 160
        with as_it_is_now():
            assert task_digest(task) != before
        Path(task.train).unlink()  # type: ignore[union-attr]
        assert len(load_task(task, tmp_path).train) == 160
    with pytest.raises(DataError):
        task_digest(task)


def test_a_corpus_is_read_once_per_run(recipe: Recipe, tmp_path: Path) -> None:
    corpus = recipe.general_corpus
    assert corpus is not None
    with first_reading():
        before, rows = corpus_digest(corpus), len(load_corpus(corpus, tmp_path).train)
        append(corpus.sources[0].paths[0])  # type: ignore[union-attr]
        assert corpus_digest(corpus) == before
        assert len(load_corpus(corpus, tmp_path).train) == rows
    assert corpus_digest(corpus) != before
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    assert changed_since(stage_identity(config, None), config, None) is None
