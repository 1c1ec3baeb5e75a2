"""Texts of published data sets: lists, objects, and spans in other columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from pydantic import TypeAdapter, ValidationError

from schemas.core.errors import DataError
from schemas.data.tasks import HubTask, TaskData
from stages.data.readers import hub
from stages.data.readers.hub import load_repository
from stages.data.tasks import load as sources
from stages.data.tasks.load import load_task
from stages.kinds.rows import TaskRows
from tests.support.toys import write_rows

INT, TEXT = Value("int32"), Value("string")
FEATURES: dict[str, Any] = {
    "csl": {"idx": INT, "corpus_id": INT, "abst": TEXT, "label": ClassLabel(names=["0", "1"]), "keyword": List(TEXT)},
    "cluewsc2020": {
        "idx": INT,
        "text": TEXT,
        "label": ClassLabel(names=["true", "false"]),
        "target": {"span1_text": TEXT, "span2_text": TEXT, "span1_index": INT, "span2_index": INT},
    },
    "chid": {
        "idx": INT,
        "candidates": List(TEXT),
        "content": List(TEXT),
        "answers": {"text": List(TEXT), "candidate_id": List(INT)},
    },
    "c3": {"id": INT, "context": List(TEXT), "question": TEXT, "choice": List(TEXT), "answer": TEXT},
}
"""Columns as the hub's card of `clue/clue` names them."""
ROWS: dict[str, dict[str, Any]] = {
    "csl": {"idx": 0, "corpus_id": 7, "abst": "摘要。", "label": 1, "keyword": ["水", "火"]},
    "cluewsc2020": {
        "idx": 0,
        "text": "小明说他病了",
        "label": 0,
        "target": {"span1_text": "小明", "span2_text": "他", "span1_index": 0, "span2_index": 3},
    },
    "chid": {
        "idx": 0,
        "candidates": ["一心一意", "三心二意", "四面楚歌"],
        "content": ["他#idiom000001#，又#idiom000002#。"],
        "answers": {"text": ["三心二意", "一心一意"], "candidate_id": [1, 0]},
    },
    "c3": {
        "id": 0,
        "context": ["男：你好。", "女：再见。"],
        "question": "谁走了？",
        "choice": ["男", "女"],
        "answer": "女",
    },
}
FORMS: dict[str, list[dict[str, Any]]] = {
    "csl": [{"text": "水 火", "text_pair": "摘要。", "label": 1}],
    "cluewsc2020": [{"text": "_小明_说[他]病了", "label": 0}],
    "chid": [
        {"text": "他____，又…。", "choices": ["一心一意", "三心二意", "四面楚歌"], "label": 1},
        {"text": "他…，又____。", "choices": ["一心一意", "三心二意", "四面楚歌"], "label": 0},
    ],
    "c3": [{"text": "男：你好。 女：再见。", "text_pair": "谁走了？", "choices": ["男", "女"], "label": 1}],
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("files", [1, 2])
def test_clue_tasks_are_read_by_name(name: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = {**ROWS[name]}
    if "label" in renamed:
        renamed["label"] = 1 - renamed["label"]
    for split in ("train", "validation"):
        for number in range(files):
            rows = Dataset.from_list([ROWS[name], renamed], features=Features(FEATURES[name]))
            path = tmp_path / name / f"{split}-{number:05d}-of-{files:05d}.parquet"
            path.parent.mkdir(exist_ok=True)
            rows.to_parquet(path)
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {name}/{s}-*\n" for s in ("train", "validation"))
        + "---\n"
    )
    monkeypatch.setattr(hub, "_commit_by_hub", lambda *_: "c" * 40)
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(
        hub,
        "load_repository",
        lambda _id, config, split, where, revision: load_repository(str(tmp_path), config, split, where),
    )
    task = TypeAdapter(TaskData).validate_python(f"clue/{name}")
    assert isinstance(task, HubTask)
    assert task.id == "clue/clue"
    result = load_task(task, tmp_path / "cache").train.to_list()
    form = FORMS[name]
    assert result[: len(form)] == form
    assert len(result) == 2 * files * len(form)


def load(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> TaskRows:
    task: dict[str, Any] = {"kind": "files"} | changes
    for split in ("train", "validation"):
        task[split] = str(write_rows(folder / f"{split}.jsonl", rows))
    return sources.load_task(TypeAdapter(TaskData).validate_python(task), folder / "cache")


MARKS = [{"text": "it.is", "start": "it.at"}]


def coreference(**it: Any) -> dict[str, Any]:
    return {"text_a": "the cat saw it", "label": "yes", "it": {"is": "it", "at": 12} | it}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (coreference(at=4), "column 'it.is': 'it' is not at character 4 of the text, which reads 'ca' at that offset"),
        (coreference(at=-2), "is not at character -2"),
        (coreference(at=None), "column 'it.at' is 'None', not a whole number"),
        (coreference(**{"is": ""}), "column 'it.is' is empty"),
    ],
)
def test_spans_at_wrong_offsets_are_refused(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    rows = [coreference(), {**coreference(), "label": "no"}, row]
    with pytest.raises(DataError, match=rf"task\.train: .*train\.jsonl: row 3: .*{reason}"):
        load(tmp_path, rows, marks=MARKS)


def test_overlapping_spans_are_refused_and_adjacent_ones_are_not(tmp_path: Path) -> None:
    def row(second: str, start: int, label: str) -> dict[str, Any]:
        return {"text_a": "abcd", "one": "ab", "a": 0, "two": second, "b": start, "label": label}

    marks = [{"text": "one", "start": "a"}, {"text": "two", "start": "b", "signs": ["<", ">"]}]
    touching = load(tmp_path, [row("cd", 2, "x"), row("cd", 2, "y")], marks=marks)
    assert touching.train["text"] == ["_ab_<cd>"] * 2
    with pytest.raises(DataError, match=r"row 2: the spans of task\.marks overlap"):
        load(tmp_path, [row("cd", 2, "x"), row("bc", 1, "y")], marks=marks)


def test_offsets_in_a_csv_are_numbers(tmp_path: Path) -> None:
    files = {}
    for split in ("train", "validation"):
        path = tmp_path / f"{split}.csv"
        path.write_text("text_a,word,at,label\nthe cat,cat,4,x\nthe dog,dog,4,y\n")
        files[split] = str(path)
    task = {"kind": "files", "marks": [{"text": "word", "start": "at"}]} | files
    rows = load_task(TypeAdapter(TaskData).validate_python(task), tmp_path / "cache")
    assert rows.train["text"] == ["the _cat_", "the _dog_"]


def test_words_are_not_marked(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="marks: the text of a token_classification task"):
        load(tmp_path, [], problem="token_classification", marks=MARKS)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (["a", "b"], [], "row 2: column 'text_a' is empty; drop the row"),
        (["a", "b"], ["c", ""], "row 2: column 'text_a' holds '', not a text"),
        (["a", "b"], None, "row 2: column 'text_a' is missing"),
        ([1.5], [2.5], "row 1: column 'text_a' holds a list, not text"),
    ],
)
def test_lists_of_texts_hold_only_texts(first: Any, second: Any, reason: str, tmp_path: Path) -> None:
    rows = [{"text_a": first, "label": "x"}, {"text_a": second, "label": "y"}]
    with pytest.raises(DataError, match=reason):
        load(tmp_path, rows)
