"""A column of numbers: values to be learnt, or the likeness of pairs."""

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
from stages.data.columns.list_columns import list_column

_WITH_COMMA = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:\.\d{3})+),(\d+)")
_WITH_POINT = re.compile(r"[-+]?\d*\.\d+")
_MINUS = str.maketrans({"−": "-"})
_THOUSANDS = 3


def value_columns(
    raw: Mapping[str, Dataset], column: str, where: Mapping[str, str]
) -> tuple[dict[str, pa.Array], tuple[str, ...]]:
    """The column as finite numbers, for every split; and a remark where commas were read as decimal points.

    Args:
        raw: the splits as they were read.
        column: its name.
        where: how messages name each split.

    Raises:
        DataError: a value is no number, or all of a split are the same; with its place and what to do.
    """
    given = {split: [value for _, value in list_column(rows, column, where[split])] for split, rows in raw.items()}
    with_comma = _have_commas(given, column, where)
    found = {split: _numbers(values, column, where[split], with_comma=with_comma) for split, values in given.items()}
    for split, numbers in found.items():
        if numbers.min() == numbers.max():
            raise DataError(
                f"{where[split]}: label {column!r} is {numbers[0]:g} in every row, and no correlation with a constant "
                "means anything; give rows of different values"
            )
    remark = (
        f"task.label: the commas of column {column!r} are read as decimal points (3,8 is 3.8); write points for the "
        "other reading"
    )
    arrays = {split: pa.array(numbers, pa.float64()) for split, numbers in found.items()}
    return arrays, (remark,) if with_comma else ()


def _have_commas(given: Mapping[str, list[object]], column: str, where: Mapping[str, str]) -> bool:
    """Whether the column's numbers have decimal commas, as one has that is not followed by three digits."""
    decimals: list[int] = []
    points: list[str] = []
    for split, values in given.items():
        for row, value in enumerate(values, start=1):
            text = _text(value)
            if _WITH_POINT.fullmatch(text):
                points.append(f"{where[split]}: row {row}: label {column!r} is {text}")
            elif "," not in text:
                continue
            elif matched := _WITH_COMMA.fullmatch(text):
                decimals.append(len(matched[1]))
            else:
                return False  # refused where it is read
    if not decimals:
        return False
    if points:
        raise DataError(f"{points[0]}, with a decimal point, but other rows have a comma; write all numbers in one way")
    if set(decimals) == {_THOUSANDS}:
        raise DataError(
            f"{where[next(iter(given))]}: label {column!r} has commas followed by three digits each, which may "
            "part thousands or decimals; write the numbers without commas"
        )
    return True


def _text(value: object) -> str:
    return value.strip().translate(_MINUS) if isinstance(value, str) else ""


def _numbers(values: list[object], column: str, where: str, *, with_comma: bool) -> NDArray[np.float64]:
    numbers = np.empty(len(values))
    for place, value in enumerate(values):
        numbers[place] = _number(value, with_comma=with_comma)
        if not np.isfinite(numbers[place]):
            raise DataError(
                f"{where}: row {place + 1}: label {column!r} is {printable(str(value), 60)!r}, not a number; a "
                "regression task's label is one finite number: mend the row, or set task.problem to classification"
            )
    return numbers


def _number(value: object, *, with_comma: bool) -> float:
    """The number; NaN where it is none."""
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
