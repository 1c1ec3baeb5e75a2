"""Rows of the hub, from a folder laid out like one of its repositories."""

from __future__ import annotations

import time
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import constants

from schemas.core.errors import DataError
from schemas.data.tasks import HubTask
from stages.data.readers import hub
from stages.data.readers.hub import load_repository
from stages.data.tasks.load import load_task, task_digest


def write_repository(folder: Path, labels: list[int]) -> Path:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    for split in ("train", "validation"):
        rows = Dataset.from_dict({"sentence": [f"{split} {n}" for n in labels], "label": labels}, features=features)
        path = folder / "sst" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: sst\n  data_files:\n"
        "  - split: train\n    path: sst/train-*\n"
        "  - split: validation\n    path: sst/validation-*\n---\n"
    )
    return folder


def hub_is(folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> HubTask:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(hub, "_commit_by_hub", lambda *_: "c" * 40)
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(
        hub,
        "load_repository",
        lambda _id, config, split, where, revision: load_repository(str(folder), config, split, where),
    )
    return HubTask(id="owner/name", config="sst")


def test_a_hub_repository_provides_rows_and_label_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = hub_is(write_repository(tmp_path / "repository", [1, 0, 1]), monkeypatch, tmp_path / "cache")
    rows = load_task(task, tmp_path / "cache")
    assert rows.labels == ("negative", "positive")
    assert rows.train.to_list()[0] == {"text": "train 1", "label": 1}
    assert rows.digest == task_digest(task) == task_digest(task.model_copy(update={"revision": "c" * 40}))


def test_hidden_labels_of_the_hub_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = hub_is(write_repository(tmp_path / "repository", [1, -1]), monkeypatch, tmp_path / "cache")
    with pytest.raises(DataError, match=r"owner/name, split train: row 2: .* another split"):
        load_task(task, tmp_path / "cache")


def test_an_unknown_split_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = hub_is(write_repository(tmp_path / "repository", [1, 0]), monkeypatch, tmp_path / "cache")
    with pytest.raises(DataError, match="split other: cannot be loaded"):
        load_task(task.model_copy(update={"train_split": "other"}), tmp_path / "cache")


def test_an_unreachable_hub_fails_immediately_and_suggests_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_commits", {})
    began = time.monotonic()
    with pytest.raises(DataError, match="owner/name is not in the local cache; give local files"):
        load_task(HubTask(id="owner/name"), tmp_path)
    assert time.monotonic() - began < 5
