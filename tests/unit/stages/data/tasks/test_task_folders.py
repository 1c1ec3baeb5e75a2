"""Folders of a task's files: selection of files, the task's name, and the task argument of `evaluate`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter

from pipeline.recipes.task_argument import task_argument
from schemas.core.errors import ConfigError, DataError
from schemas.data.stage_data import TaskDataset
from schemas.data.task_names import short_name
from schemas.data.tasks import AnyTask, DocstringTask, FileTask, HubTask, TaskData, describe_task
from schemas.results.manifest import Manifest
from stages.data.tasks.load import load_task, task_digest
from tests.support.recipes import recipe
from tests.support.tasks import ROWS, refused, write

CSV = "text_a,label\na good film,yes\na dull plot,no\n"


def short(path: str | Path) -> FileTask:
    task = TypeAdapter(TaskData).validate_python(str(path))
    assert isinstance(task, FileTask)
    return task


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("train.csv", "validation.csv"),
        ("train.csv", "dev.csv"),
        ("train.tsv", "valid.csv"),
        ("Train.csv", "val.csv"),
        ("train.csv.gz", "validation.jsonl"),
        ("train.parquet", "validation-00000-of-00001.parquet"),
        ("training.jsonl", "test.csv"),
    ],
)
def test_a_folder_may_contain_any_format_under_common_names(tmp_path: Path, train: str, validation: str) -> None:
    import gzip

    for name in (train, validation, "README.md", "train.py"):
        path = tmp_path / "set" / name
        path.parent.mkdir(exist_ok=True)
        if ".jsonl" in name:
            write(path, ROWS[:2])
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(ROWS[:2]), path)
        else:
            text = CSV.replace(",", "\t") if ".tsv" in name else CSV
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    task = short(tmp_path / "set")
    rows = load_task(task, tmp_path / "cache")
    assert len(rows.train) == len(rows.validation) == 2
    assert describe_task(task) == "set"
    assert any("test rows" in remark for remark in rows.remarks) == (validation == "test.csv")


def test_a_folder_with_a_column_named_text_is_read(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("," + CSV.replace("text_a", "Text").replace("\na ", "\n0,a "))
    rows = load_task(short(tmp_path), tmp_path / "cache")
    assert rows.train["text"][:] == ["a good film", "a dull plot"]
    assert "column 'text' is read; there is no 'text_a'" in rows.remarks[0]
    named = FileTask(train=f"{tmp_path}/train.csv", validation=f"{tmp_path}/dev.csv", text="text")
    assert rows.digest == task_digest(named)


def test_test_rows_are_not_used_if_validation_rows_exist(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "test.csv"):
        (tmp_path / name).write_text(CSV + ("a fine cast,yes\n" if name == "dev.csv" else ""))
    assert len(load_task(short(tmp_path), tmp_path / "cache").validation) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.jsonl", "dev.csv"], "task.train: .* matches 2 files, .*train.csv, .*train.jsonl"),
        (["train.csv", "dev.csv", "valid.csv"], "task.validation: .* matches 2 files, .*dev.csv, .*valid.csv"),
        (["data.csv"], "a task needs two files: split data.csv into train.csv and validation.csv"),
        (["train.csv"], "there is no file .*validation.* nor one named valid, val, dev"),
        (["train.xlsx", "dev.xlsx"], "is a spreadsheet.*save it as CSV"),
    ],
)
def test_an_ambiguous_folder_is_refused_with_a_remedy(tmp_path: Path, names: list[str], message: str) -> None:
    import re

    for name in names:
        path = tmp_path / name
        path.write_text(CSV) if ".csv" in name else write(path)
    assert re.search(message, refused(short(tmp_path), tmp_path))


def test_a_file_given_as_a_task_is_refused_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\na,x\nb,y\n")
    task = TypeAdapter(TaskData).validate_python(str(file))
    with pytest.raises(DataError, match=r"train.csv is a file, not a folder.*train: .*train.csv"):
        load_task(task, tmp_path / "cache")


def test_a_validation_file_without_a_header_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / "dev.csv").write_text("a fine cast,yes\na long film,no\na good film,yes\n")
    message = refused(short(tmp_path), tmp_path)
    assert "task.validation: " in message
    assert "format.columns: [text_a, label]" in message


def test_a_task_in_the_current_folder_is_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reviews" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "reviews")
    for folder in ("./", "."):
        assert short_name(folder) == "reviews"
    assert describe_task(short("./")) == "reviews"
    assert describe_task(FileTask(train="train.csv", validation="dev.csv")) == "reviews"
    assert describe_task(FileTask(train="./train.csv", validation="dev.csv")) == "reviews"
    assert describe_task(FileTask(train="../train.csv", validation="dev.csv")) == tmp_path.name
    assert describe_task(FileTask(train="/train.csv", validation="dev.csv")) == "train.csv"
    assert describe_task(FileTask(train="/data/a/train.csv", validation="b.csv")) == "a"


@pytest.mark.parametrize(
    ("train", "name"),
    [
        ("films.csv", "films"),
        ("./films.csv.gz", "films"),
        ("/data/shop/reviews 2024.tsv", "reviews 2024"),
        ("20news.jsonl", "20news"),
        ("/data/shop/Train_v2.csv", "shop"),
        ("/data/shop/train-00000-of-00002.parquet", "shop"),
        ("/data/shop/*.jsonl", "shop"),
        ("/data/shop/0001.csv", "shop"),
    ],
)
def test_a_task_of_a_file_is_named_after_it_unless_the_file_is_a_part(train: str, name: str) -> None:
    assert describe_task(FileTask(train=train, validation="dev.csv")) == name


# Arguments of `evaluate --task`

TRAINED = FileTask.model_validate(
    {
        "train": "/t/train.csv",
        "validation": "/t/dev.csv",
        "text": "review",
        "label": "stars",
        "max_length": 64,
        "problem": "regression",
        "format": {"encoding": "cp1252"},
    }
)


def asked(text: str, trained: AnyTask = TRAINED) -> AnyTask:
    config = SimpleNamespace(data=TaskDataset(task=trained))
    return task_argument(text, cast("Manifest", SimpleNamespace(config=config, positive_label=None)))


def test_a_folder_is_read_with_the_columns_of_the_checkpoints_task() -> None:
    places = {"train": "./new/train.*", "validation": "./new/validation.*"}
    expected: dict[str, Any] = {**TRAINED.model_dump(exclude={"format"}), **places}
    assert asked("./new") == FileTask.model_validate(expected)
    assert asked("sst2", TRAINED) == TypeAdapter(TaskData).validate_python("sst2")
    assert isinstance(asked("docstrings"), DocstringTask)


def test_a_mapping_overrides_the_checkpoints_task() -> None:
    task = asked("{kind: files, train: a.csv, validation: b.csv}")
    assert isinstance(task, FileTask)
    assert (task.train, task.validation, task.text, task.label) == ("a.csv", "b.csv", "review", "stars")
    assert (task.problem, task.format.encoding) == (TRAINED.problem, None)
    task = asked("{train: a.csv, validation: b.csv, text: words, format: {separator: ;}}")
    assert isinstance(task, FileTask)
    assert (task.text, task.format.separator) == ("words", ";")
    hub = asked("{kind: hub, id: stanfordnlp/imdb, text: text}")
    assert isinstance(hub, HubTask)
    assert (hub.id, hub.text) == ("stanfordnlp/imdb", "text")


def test_a_file_has_rows_to_score_and_a_folder_without_its_sign_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csvtask").mkdir()
    (tmp_path / "new.csv").write_text("review,stars\nfine,1\n", encoding="utf-8")
    for path in ("new.csv", "./new.csv", str(tmp_path / "new.csv")):
        task = asked(path)
        assert isinstance(task, FileTask)
        assert (task.train, task.validation, task.text) == (TRAINED.train, path, "review")
    with pytest.raises(ConfigError, match=r"'csvtask' is no task; did you mean the folder \./csvtask\?"):
        asked("csvtask")
    with pytest.raises(ConfigError, match=r"was not trained on files.*validation: new\.csv, text: COLUMN"):
        asked("new.csv", DocstringTask())


def test_a_recipe_provides_its_task(tmp_path: Path) -> None:
    from schemas.loading.dump import dump_recipe

    single, several = tmp_path / "one.yaml", tmp_path / "several.yaml"
    single.write_text(dump_recipe(recipe("task.max_length=77")))
    several.write_text(dump_recipe(recipe("tasks=[sst2, mrpc]")))
    assert asked(str(single)).max_length == 77
    assert asked("quickstart").kind == "docstring_pairs"
    mrpc = asked(f"{several}:mrpc")
    assert isinstance(mrpc, HubTask)
    assert mrpc.config == "mrpc"
    without = yaml.safe_load(single.read_text())
    assert "task" in without
    for text, message in (
        (str(several), "has the tasks sst2, mrpc; name one, such as"),
        (f"{single}:mrpc", "has one task; leave out :mrpc"),
        (str(tmp_path / "none.yaml"), "there is no recipe"),
    ):
        with pytest.raises(ConfigError, match=message):
            asked(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "'nonsense' is no task; give docstrings, "),
        ("{kind: files, trane: a}", "trane"),
        ("{kind: files, train: ", "--task:1: not valid YAML"),
        ("{kind: hub}", "--task id: "),
    ],
)
def test_an_invalid_task_argument_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(text)
    assert message in " ".join(caught.value.problems)
