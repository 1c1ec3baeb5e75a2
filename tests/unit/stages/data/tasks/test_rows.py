"""Rows of every kind of task: their form, and errors about invalid rows."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError

from schemas.core.errors import DataError
from schemas.data.tasks import TaskData
from stages.data.columns.tag_rows import sorted_tags
from stages.data.tasks.load import load_task
from stages.data.tasks.repeated_rows import rows_in_train
from stages.kinds.rows import TaskRows
from tests.support.kinds import COLUMNS, ROWS, kind_rows, kind_task
from tests.support.toys import write_rows

SHARED = Path(os.environ.get("DISTILL_SHARED_DATA", "../shared/data"))


def load(folder: Path, kind: str, rows: list[dict[str, Any]], **changes: Any) -> TaskRows:
    """Load the task with these training rows."""
    task = kind_task(folder, kind, rows=20)
    write_rows(Path(task["train"]), rows)
    return load_task(TypeAdapter(TaskData).validate_python(task | changes), folder / "cache")


def asked(answer: str, start: int | None, *, question: str = "is it") -> dict[str, Any]:
    """A question about "the film"."""
    starts = [] if start is None else [start]
    answers = {"text": [answer], "answer_start": starts}
    return {"question": question, "context": "the film", "answers": answers}


def picked(passage: str, choices: Any, answer: Any) -> dict[str, Any]:
    """A question about a passage."""
    return {"passage": passage, "question": "which", "choices": choices, "answer": answer}


# A row with one error and the expected message, by kind of task.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("regression", {"text_a": "film", "label": "much"}, "label 'label' is 'much', not a number"),
    ("regression", {"text_a": "film", "label": None}, "label 'label' is 'None', not a number"),
    ("regression", {"text_a": "", "label": "1"}, "column 'text_a' is empty"),
    ("multi_label", {"text_a": "film", "label": 3.5}, "column 'label' is '3.5', not a list"),
    ("multi_label", {"text_a": "film", "label": ["purple"]}, "label 'purple' is not one of blue, green, red"),
    ("token_classification", {"tokens": ["a", "b"], "tags": ["O"]}, "'tokens' has 2 words but 'tags' has 1 tags"),
    ("token_classification", {"tokens": "a b", "tags": ["O", "O"]}, "column 'tokens' is 'a b', not a list"),
    ("token_classification", {"tokens": ["a", ""], "tags": ["O", "O"]}, "column 'tokens' holds '', not a text"),
    ("token_classification", {"tokens": ["a"], "tags": ["B-X"]}, "label 'B-X' is not one of O, "),
    (
        "question_answering",
        asked("plot", 4),
        "'plot' is not at character 4 of the text, which reads 'film' at that offset",
    ),
    ("question_answering", asked("film", -1), "is not at character -1"),
    ("question_answering", asked("film", None), "must be lists of the same length"),
    ("question_answering", asked("film", 4, question=""), "column 'question' is empty"),
    ("multiple_choice", picked("film", ["a", "b"], "c"), "'answer' is c, none of the row's 2 choices (a, b)"),
    ("multiple_choice", picked("film", ["a", "b"], 2), "'answer' is 2, none of the row's 2 choices"),
    ("multiple_choice", picked("film", ["a", "b"], None), "'answer' is missing, none of the row's 2 choices"),
    ("multiple_choice", picked("film", ["a", "b"], ""), "'answer' is empty, none of the row's 2 choices"),
    ("multiple_choice", picked("film", ["a"], "a"), "column 'choices' has one choice, 'a'; give two or more"),
    ("multiple_choice", picked("film", "a b", "a"), "column 'choices' is 'a b', not a list"),
    ("multiple_choice", picked("", ["a", "b"], "a"), "column 'passage' is empty"),
    ("pair", {"text_a": "film", "text_b": None, "label": "same"}, "column 'text_b' is missing or null"),
    ("embedding", {"text_a": " "}, "column 'text_a' is empty"),
]


@pytest.mark.parametrize(("kind", "row", "expected"), WRONG, ids=[expected[:40] for *_, expected in WRONG])
def test_an_invalid_row_is_named_by_file_row_and_column(
    kind: str, row: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    rows = kind_rows(kind, 8, 1)
    if isinstance(row.get("label"), str) and kind == "regression":
        rows = [row | {"label": str(row["label"])} for row in rows]
    labels = {
        "multi_label": {"labels": ["blue", "green", "red"]},
        "token_classification": {"labels": ["O", "B-COLOUR", "I-COLOUR", "B-NUMBER", "I-NUMBER"]},
    }
    mixed = [*rows[:5], row, *rows[5:]]
    if expected.startswith(("column 'label' is '3.5'", "column 'tokens' is 'a b'")):
        mixed = [row]  # a column of a file is of one type
    with pytest.raises(DataError) as caught:
        load(tmp_path, kind, mixed, **labels.get(kind, {}))
    message = str(caught.value)
    assert expected in message
    assert f"row {mixed.index(row) + 1}:" in message
    assert "task.train" in message
    assert "train.jsonl" in message
    assert re.search(r"; \w+", message), "and what to do"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "matthews"}, "matthews does not score regression tasks"),
        ({"labels": ["a", "b"]}, "a regression task has none"),
        ({"problem": "guesswork"}, "guesswork"),
    ],
)
def test_settings_that_do_not_apply_to_the_kind_of_task_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        TypeAdapter(TaskData).validate_python(kind_task(tmp_path, "regression", rows=4) | changes)


def test_a_window_overlap_longer_than_the_window_is_refused(tmp_path: Path) -> None:
    task = kind_task(tmp_path, "question_answering", rows=4)
    task["problem"] = {"kind": "question_answering", "stride": 100}
    with pytest.raises(ValidationError, match="lower the stride"):
        TypeAdapter(TaskData).validate_python(task)


def test_sets_of_labels_may_be_lists_or_text(tmp_path: Path) -> None:
    rows = [{"text_a": "film", "label": text} for text in ("red, blue", "", "green")]
    result = load(tmp_path, "multi_label", rows, labels=["blue", "green", "red"])
    assert list(result.train["label"]) == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert result.labels == ("blue", "green", "red")


def test_tags_are_ordered_by_type_with_o_first() -> None:
    tags = ["I-loc", "B-per", "O", "B-loc", "I-per"]
    assert sorted_tags(set(tags)) == ("O", "B-loc", "I-loc", "B-per", "I-per")


def test_a_sentence_without_words_is_dropped(tmp_path: Path) -> None:
    rows = [*kind_rows("token_classification", 6, 1), {"tokens": [], "tags": []}]
    assert len(load(tmp_path, "token_classification", rows).train) == 6


def squad(version: str) -> dict[str, Any]:
    """Write a file in the format of SQuAD."""
    context = "the red film is good"
    asked = [{"id": "1", "question": "is it red", "answers": [{"text": "red", "answer_start": 4}]}]
    if version == "v2.0":
        asked.append(
            {
                "id": "2",
                "question": "is it old",
                "is_impossible": True,
                "answers": [],
                "plausible_answers": [{"text": "good", "answer_start": 16}],
            }
        )
    paragraphs = [{"context": context, "qas": asked}]
    return {"version": version, "data": [{"title": "film", "paragraphs": paragraphs}]}


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
@pytest.mark.parametrize("packed", [False, True])
def test_original_squad_files_are_read(version: str, packed: bool, tmp_path: Path) -> None:
    text = json.dumps(squad(version)).encode()
    name = "train.json.gz" if packed else "train.json"
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    task = kind_task(tmp_path, "question_answering", rows=4) | {"train": str(tmp_path / name)}
    rows = load_task(TypeAdapter(TaskData).validate_python(task), tmp_path / "cache").train
    assert list(rows["answers"]) == [["red"], []][: 1 if version == "1.1" else 2]
    assert rows[0]["starts"] == [4]


def test_an_invalid_squad_file_is_named_with_the_location(tmp_path: Path) -> None:
    broken = squad("1.1")
    del broken["data"][0]["paragraphs"][0]["qas"][0]["question"]
    (tmp_path / "train.json").write_text(json.dumps(broken))
    task = kind_task(tmp_path, "question_answering", rows=4)
    task["train"] = str(tmp_path / "train.json")
    with pytest.raises(DataError, match=r"data\[0\].paragraphs\[0\].qas\[0\]: 'question' is missing"):
        load_task(TypeAdapter(TaskData).validate_python(task), tmp_path / "cache")


def test_further_validation_sets_are_read_under_their_names(tmp_path: Path) -> None:
    more = write_rows(tmp_path / "other.jsonl", kind_rows("pair", 12, 5))
    result = load(tmp_path, "pair", kind_rows("pair", 20, 1), more_validation={"other": str(more)})
    assert list(result.more) == ["other"]
    assert len(result.split("other")) == 12


def test_rows_in_train_are_detected_regardless_of_case_spaces_and_punctuation() -> None:
    train = Dataset.from_dict({"text": ["The film, good!", "Straße", "Ａ１"]})
    validation = Dataset.from_dict({"text": ["the  FILM good", "STRASSE", "a1", "film good"]})
    assert rows_in_train(train, validation).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("name", "number"), [("sst2", 2), ("chnsenticorp", 342), ("mrpc", None)])
def test_rows_in_train_match_the_marks_of_real_data(name: str, number: int | None) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")

    def read(split: str) -> list[dict[str, Any]]:
        with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    rows = {split: read(split) for split in ("train", "validation")}
    pair = "text_b" in rows["train"][0]

    def dataset(split: str) -> Dataset:
        columns = {"text": [row["text_a"] for row in rows[split]]}
        columns |= {"text_pair": [row["text_b"] for row in rows[split]]} if pair else {}
        return Dataset.from_dict(columns)

    marked = np.array([row.get("in_train", False) for row in rows["validation"]])
    actual = rows_in_train(dataset("train"), dataset("validation"))
    assert number is None or int(marked.sum()) == number
    assert np.array_equal(actual, marked)


def test_every_kind_has_toy_rows_and_columns() -> None:
    assert ROWS.keys() == COLUMNS.keys()
