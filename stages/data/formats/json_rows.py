"""Diagnosis of JSON files that `datasets` cannot read, or reads as something other than rows."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.compression import open_plain
from stages.data.files.read_request import Reading

_EXAMPLE = '{"text": "…", "label": "…"}'
_KINDS = {
    str: "text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def json_problem(path: Path, reading: Reading) -> str | None:
    """Return why a file holds no JSON rows, with the line; None if all lines are objects with columns of one type."""
    kinds: dict[str, tuple[str, int]] = {}
    is_first = True
    with open_plain(path) as file:
        for number, line in enumerate(file, start=1):
            if not (line := line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip()):
                continue
            if is_first and line.startswith(b"["):
                return _syntax_problem(line + b"\n" + file.read(), number)
            is_first = False
            if problem := _syntax_problem(line, number) or _type_problem(line, number, kinds, reading):
                return problem
    return None


def _syntax_problem(text: bytes, first_line: int) -> str | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return _cause(text, first_line, error)
    except RecursionError:
        return f"line {first_line} is nested too deeply; a row is one object of texts and numbers"
    except ValueError as error:  # a number of thousands of digits
        return f"line {first_line} is not valid JSON ({printable(str(error), 100)}); correct that line"
    return None if isinstance(value, dict | list) else _no_object(first_line)


def _no_object(line: int) -> str:
    return f"line {line} is no JSON object; write one row per line, such as {_EXAMPLE}"


def _cause(text: bytes, first_line: int, error: json.JSONDecodeError) -> str:
    line = first_line + error.lineno - 1
    if error.msg == "Extra data" and text.endswith(b",") and error.pos >= len(error.doc) - 1:
        return f"line {line} ends with a comma; each line is one object, without a comma after it"
    if text.strip() in (b"{", b"["):
        return f"line {line} begins an object that spans several lines; write each row on one line, such as {_EXAMPLE}"
    if b"{'" in text[:100] or text[:20].lstrip(b"[{ ").startswith(b"'"):
        return f"line {line} has Python's quotes, not JSON's; write it with json.dumps, such as {_EXAMPLE}"
    return f"line {line} is not valid JSON ({error.msg}); correct that line"


def _type_problem(line: bytes, number: int, kinds: dict[str, tuple[str, int]], reading: Reading) -> str | None:
    """Return what is wrong if a wanted column has another type than in the lines before, which `kinds` records."""
    row = json.loads(line)
    if not isinstance(row, dict):
        return _no_object(number)
    for column in reading.columns:
        kind = _KINDS.get(type(row.get(column)), "")
        if kind and kinds.setdefault(column, (kind, number))[0] != kind:
            before, line_before = kinds[column]
            return (
                f"line {number}: column {column!r} holds {kind}, but {before} in line {line_before}; write it the same "
                "way in every row"
            )
    return None


def refuse_other_layouts(rows: Dataset, reading: Reading, shown: str) -> None:
    """Refuse JSON that is not rows: a table by columns, or rows under a key.

    Args:
        rows: the file as `datasets` read it.
        reading: the wanted columns.
        shown: the file's field and path, for messages.

    Raises:
        DataError: with the layout and how to write rows instead.
    """
    row = _only_object(rows, reading)
    if row is None:
        return
    nested = {key: value for key, value in row.items() if isinstance(value, list | dict)}
    wanted = [key for key in nested if key in reading.columns]
    if wanted or {"columns", "data"} <= set(nested):
        raise DataError(
            f"{shown} is a table by columns ({(wanted or ['data'])[0]!r} holds all rows); write one row per line, such "
            f'as {_EXAMPLE}; pandas does so with to_json(…, orient="records", lines=True)'
        )
    if keys := [key for key, value in nested.items() if _are_rows(value, reading)]:
        raise DataError(
            f"{shown} is one object that holds rows under {', '.join(map(repr, keys[:3]))}; write each row on its own "
            f"line, such as {_EXAMPLE}, and each split to its own file"
        )


def _only_object(rows: Dataset, reading: Reading) -> dict[str, Any] | None:
    """Return the single row of a file if it may be no row; None for rows."""
    if len(rows) != 1 or not rows.column_names:
        return None
    row: dict[str, Any] = rows[0]
    if any(isinstance(row.get(column), str | int | float) for column in reading.columns):
        return None
    # Rows of tagged words, answers and choices hold lists too, but at most one wanted column of other rows does.
    if reading.words or not reading.columns:
        return None
    if all(isinstance(row.get(column), list | dict) for column in reading.columns):
        return row
    return None if any(column in row for column in reading.columns) else row


def _are_rows(value: Any, reading: Reading) -> bool:
    if isinstance(value, dict):
        return any(column in value for column in reading.columns)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def refuse_printed_values(rows: Dataset, path: Path, columns: Sequence[str], shown: str) -> None:
    """Refuse lists and objects that were read as text because the column held text in the rows before.

    Only lines whose text looks like a list or an object are parsed.

    Args:
        rows: the file as `datasets` read it, a few megabytes at a time.
        path: the file, uncompressed.
        columns: the wanted ones.
        shown: the file's field and path, for messages.

    Raises:
        DataError: with the first such line.
    """
    candidates: dict[int, list[str]] = {}
    for column in columns:
        if column not in rows.column_names:
            continue
        values = rows.data.column(column)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            looks = pc.match_substring_regex(values, r"^\s*[\[{]")
            for row in pc.indices_nonzero(pc.fill_null(looks, False)).to_pylist():
                candidates.setdefault(row, []).append(column)
    if not candidates:
        return
    with open_plain(path) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for row, (number, line) in enumerate(lines):
            for column in candidates.get(row, ()):
                value = _object_in(line).get(column)
                if isinstance(value, list | dict):
                    raise DataError(
                        f"{shown}: line {number}: column {column!r} holds {_KINDS[type(value)]}, but text in the rows "
                        "before; write it the same way in every row"
                    )


def _object_in(line: bytes) -> dict[str, Any]:
    """Return the object in a line; an empty one if the file has not one row per line."""
    try:
        value = json.loads(line.removeprefix(codecs.BOM_UTF8))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
