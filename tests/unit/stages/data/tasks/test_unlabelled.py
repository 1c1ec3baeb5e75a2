"""Rows without a text or a label are dropped and counted up to a limit, and refused by row above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows
from tests.support.kinds import COLUMNS, kind_rows

WHERE = {"train": "task.train: t.jsonl", "validation": "task.validation: v.jsonl"}


def read(
    kind: str,
    rows: Sequence[dict[str, Any]],
    validation: Sequence[dict[str, Any]] | None = None,
    *,
    droppable: float = 0.02,
    **fields: Any,
) -> CheckedRows:
    problem = "classification" if kind == "pair" else kind
    task = FileTask.model_validate(
        {"train": "t", "validation": "v", "problem": problem, "max_length": 384, **COLUMNS[kind], **fields}
    )
    raw = {
        "train": Dataset.from_list(list(rows)),
        "validation": Dataset.from_list(list(validation or kind_rows(kind, 20, 2))),
    }
    return checked_rows(task, raw, WHERE, droppable=droppable)


EMPTY: list[tuple[str, dict[str, Any]]] = [
    ("pair", {"text_a": "", "text_b": "film", "label": "same"}),
    ("pair", {"text_a": "film", "text_b": " \u3000", "label": "same"}),
    ("pair", {"text_a": "film", "text_b": None, "label": "same"}),
    ("pair", {"text_a": "film", "text_b": "film", "label": None}),
    ("pair", {"text_a": "film", "text_b": "film", "label": ""}),
    ("pair", {"text_a": "film", "text_b": "film", "label": "-"}),
    ("multi_label", {"text_a": None, "label": ["red"]}),
    ("multi_label", {"text_a": "film", "label": None}),
    ("regression", {"text_a": "film", "label": None}),
    ("regression", {"text_a": "film", "label": float("nan")}),
    ("token_classification", {"tokens": ["film"], "tags": None}),
    ("token_classification", {"tokens": None, "tags": ["O"]}),
    ("question_answering", {"question": "", "context": "the film", "answers": {"text": [], "answer_start": []}}),
    ("question_answering", {"question": "is it", "context": "the film", "answers": None}),
    ("multiple_choice", {"passage": "film", "question": "which", "choices": ["a", "b"], "answer": None}),
    ("embedding", {"text_a": " "}),
]


@pytest.mark.parametrize(("kind", "row"), EMPTY)
def test_few_empty_rows_are_dropped_and_counted(kind: str, row: dict[str, Any]) -> None:
    rows = kind_rows(kind, 99, 1)
    task = read(kind, [*rows[:40], row, *rows[40:]])
    assert len(task.splits["train"]) == 99
    assert task.dropped == {"train": 1, "validation": 0}
    (remark,) = task.remarks
    assert remark.startswith("task.train: t.jsonl: 1 of 100 rows have no text or no label")
    assert remark.endswith("are left out, the first is row 41; set limits.dropped to 0 to refuse them")
    assert task.splits["train"].to_list() == read(kind, rows).splits["train"].to_list()


@pytest.mark.parametrize(("kind", "row"), EMPTY)
def test_more_empty_rows_than_the_limit_are_refused_with_row_and_count(kind: str, row: dict[str, Any]) -> None:
    rows = kind_rows(kind, 97, 1)
    padded_rows = [*rows[:40], row, *rows[40:], row, row]
    with pytest.raises(DataError) as caught:
        read(kind, padded_rows)
    message = str(caught.value)
    assert message.startswith("task.train: t.jsonl: row 41: ")
    assert "(3 of 100 rows have no text or no label, 3 %; limits.dropped leaves out up to 2 %)" in message
    assert len(read(kind, padded_rows, droppable=0.03).splits["train"]) == 97
    with pytest.raises(DataError, match="row 41: "):
        read(kind, [*rows[:40], row, *rows[40:]], droppable=0)


def test_errors_after_a_dropped_row_have_the_row_number_of_the_file() -> None:
    rows = kind_rows("pair", 98, 1)
    empty = {"text_a": "", "text_b": "film", "label": "same"}
    odd = {"text_a": "film", "text_b": "film", "label": "sane"}
    with pytest.raises(DataError, match=r"^task.validation: v.jsonl: row 12: label 'sane' is not one"):
        read("pair", rows, [empty, *rows[:10], odd, *rows[10:]])


def test_a_file_of_empty_rows_is_refused_at_any_limit() -> None:
    with pytest.raises(DataError, match="row 1: column 'text_a' is empty"):
        read("embedding", [{"text_a": ""}] * 3, droppable=1)


def test_a_row_without_any_of_several_labels_is_complete() -> None:
    rows = [{"text_a": "film", "label": text} for text in ("red, blue", "", "green")]
    task = read("multi_label", rows, rows)
    assert not task.remarks
    assert len(task.splits["train"]) == 3


@pytest.mark.parametrize("nothing", ["", "nan", "NA", "N/A", "-", "null", "None"])
def test_a_none_value_is_missing(nothing: str) -> None:
    rows = [{"text_a": f"text {number}", "label": f"{number}.5"} for number in range(99)]
    valid = [{"text_a": "text", "label": value} for value in ("1.0", "2.0")]
    task = read("regression", [*rows, {"text_a": "text", "label": nothing}], valid)
    assert task.dropped["train"] == 1
