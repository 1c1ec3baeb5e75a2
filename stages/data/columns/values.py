"""A column of numbers: values to regress on, or similarities of pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.columns import Column, Columns, Parsed, columns_of
from stages.data.columns.text_columns import Task

_WITH_COMMA = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:\.\d{3})+),(\d+)")
_WITH_POINT = re.compile(r"[-+]?\d*\.\d+")
_MINUS = str.maketrans({"−": "-"})
_THOUSANDS = 3


def read_values(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> Parsed[pa.Array]:
    """Return the label column as finite numbers, for every split.

    Args:
        task: names the column.
        raw: the splits as read.
        where: location of each split in messages.

    Raises:
        DataError: a value is no number, or all values of a split are the same.
    """
    columns = columns_of(raw, task.label_column, where, noun="label")
    values = {split: [value for _, value in column.numbered()] for split, column in columns.items()}
    with_comma = _have_decimal_commas(columns, values)
    splits: dict[str, pa.Array] = {}
    for split, column in columns.items():
        numbers = _numbers(column, values[split], with_comma=with_comma)
        if numbers.min() == numbers.max():
            raise DataError(
                f"{column.where}: label {column.name!r} is {numbers[0]:g} in every row, and no correlation with a "
                "constant is defined; give rows of different values"
            )
        splits[split] = pa.array(numbers, pa.float64())
    remark = (
        f"task.label: the commas of column {task.label_column!r} are read as decimal points (3,8 is 3.8); write points "
        "for the other reading"
    )
    return Parsed(splits, remarks=(remark,) if with_comma else ())


def _have_decimal_commas(columns: Columns, values: Mapping[str, list[object]]) -> bool:
    """Return whether commas are decimal points: at least one is not followed by three digits."""
    digits: set[int] = set()
    with_point: DataError | None = None
    for split, column in columns.items():
        for row, value in enumerate(values[split], start=1):
            text = _text(value)
            if _WITH_POINT.fullmatch(text):
                with_point = with_point or column.error(
                    row, f"is {text}, with a decimal point, but other rows have a comma; write all numbers in one way"
                )
            elif "," not in text:
                continue
            elif matched := _WITH_COMMA.fullmatch(text):
                digits.add(len(matched[1]))
            else:
                return False  # refused when its row is read
    if not digits:
        return False
    if with_point is not None:
        raise with_point
    if digits == {_THOUSANDS}:
        column = next(iter(columns.values()))
        raise DataError(
            f"{column.where}: label {column.name!r} has commas followed by three digits each, which may separate "
            "thousands or decimals; write the numbers without commas"
        )
    return True


def _text(value: object) -> str:
    return value.strip().translate(_MINUS) if isinstance(value, str) else ""


def _numbers(column: Column, values: list[object], *, with_comma: bool) -> NDArray[np.float64]:
    numbers = np.array([_number(value, with_comma=with_comma) for value in values])
    if not np.isfinite(numbers).all():
        row = int(np.isfinite(numbers).argmin()) + 1
        raise column.error(
            row,
            f"is {printable(str(values[row - 1]), 60)!r}, not a number; a regression task's label is one finite "
            "number: fix the row, or set task.problem to classification",
        )
    return numbers


def _number(value: object, *, with_comma: bool) -> float:
    """Return the number, or NaN if the value is none."""
    if isinstance(value, str):
        value = _text(value)
        if with_comma and "," in value:
            value = value.replace(".", "").replace(",", ".")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return np.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return np.nan
