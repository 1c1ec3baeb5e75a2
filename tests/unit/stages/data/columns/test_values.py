"""Columns of numbers: spellings, and columns without a defined correlation."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from datasets import Dataset
from pydantic import TypeAdapter

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask, TaskData
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows


def load(train: list[Any], validation: list[Any] | None = None, **changes: Any) -> CheckedRows:
    """Load a regression task with these labels."""
    task = {"kind": "files", "problem": "regression", "train": "a", "validation": "b"} | changes
    parsed = TypeAdapter(TaskData).validate_python(task)
    assert isinstance(parsed, FileTask)
    raw = {
        split: Dataset.from_dict({"text_a": ["a"] * len(labels), "text_b": ["b"] * len(labels), "label": labels})
        for split, labels in {"train": train, "validation": validation or train}.items()
    }
    return checked_rows(parsed, raw, {split: f"task.{split}" for split in raw})


def values(result: CheckedRows, split: str = "train") -> list[float]:
    return list(result.splits[split]["label"])


def test_numbers_may_be_written_as_text() -> None:
    result = load(["-3", " 120 ", "2.5e1", "−0.5", ".5"])
    assert values(result) == [-3, 120, 25, -0.5, 0.5]
    assert result.remarks == ()


def test_numbers_may_be_of_any_type() -> None:
    assert values(load([-3, 120])) == [-3, 120]
    assert values(load([Decimal("-0.25"), Decimal("1.5")])) == [-0.25, 1.5]


def test_commas_are_decimal_points_if_the_whole_column_allows_it() -> None:
    result = load(["3,8", "-0,25", "4", "1.234,5"], ["2,125", "0"])
    assert values(result) == [3.8, -0.25, 4, 1234.5]
    assert values(result, "validation") == [2.125, 0]
    assert result.remarks == (
        "task.label: the commas of column 'label' are read as decimal points (3,8 is 3.8); write points for the other "
        "reading",
    )


@pytest.mark.parametrize(
    ("train", "validation", "reason"),
    [
        (["3,8", "2.5"], None, "task.train: row 2: label 'label' is 2.5, with a decimal point, but other rows have a"),
        (["1,234", "2,500", "7"], None, "commas followed by three digits each"),
        (["1,234.5", "2"], None, "row 1: label 'label' is '1,234.5', not a number"),
        (["3", "nan"], None, "row 2: label 'label' is 'nan', not a number"),
        (["3", "85 %"], None, "row 2: label 'label' is '85 %', not a number"),
        ([1.0, 2.0], [3.5, 3.5], "task.validation: label 'label' is 3.5 in every row, and no correlation"),
        ([7, 7, 7], [1, 2], "task.train: label 'label' is 7 in every row"),
    ],
)
def test_non_numbers_and_constant_columns_are_refused(
    train: list[Any], validation: list[Any] | None, reason: str
) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load(train, validation)
    assert re.search(r"; (\w+)", str(caught.value)), "and what to do"


def test_similarities_of_pairs_are_read_like_values() -> None:
    fields = {"problem": "embedding", "text_pair": "text_b"}
    result = load(["x", "y"], ["0,5", "4,5"], **fields)
    assert values(result, "validation") == [0.5, 4.5]
    assert result.splits["train"].column_names == ["text"], "training rows have no similarities"
    with pytest.raises(DataError, match="is 2 in every row"):
        load([1, 2], [2, 2], **fields)
