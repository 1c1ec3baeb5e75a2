"""What is wrong with a JSON file that `datasets` does not read, or reads as something that is not rows."""

from __future__ import annotations

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
_MARK = b"\xef\xbb\xbf"


def json_problem(path: Path, reading: Reading) -> str | None:
    """Why a file is no JSON rows, with the line; None where every line is an object of columns of one type each."""
    with open_plain(path) as file:
        begin = file.read(4096).removeprefix(_MARK).lstrip()
        file.seek(0)
        if begin[:1] == b"[":
            return _problem_of(file.read().removeprefix(_MARK), first_line=1)
        kinds: dict[str, tuple[str, int]] = {}
        for number, line in enumerate(file, start=1):
            if not (line := line.removeprefix(_MARK if number == 1 else b"").strip()):
                continue
            problem = _problem_of(line, number) or _type_problem(line, number, kinds, reading)
            if problem:
                return problem
    return None


def _problem_of(text: bytes, first_line: int) -> str | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return _syntax_problem(text, first_line, error)
    except RecursionError:
        return f"line {first_line} is nested too deeply; a row is one object of texts and numbers"
    except ValueError as error:  # a number of thousands of digits
        return f"line {first_line} is not valid JSON ({printable(str(error), 100)}); mend that line"
    if isinstance(value, dict | list):
        return None
    return f"line {first_line} is no JSON object; write a row a line, such as {_EXAMPLE}"


def _syntax_problem(text: bytes, first_line: int, error: json.JSONDecodeError) -> str:
    line = first_line + error.lineno - 1
    if error.msg == "Extra data" and text.endswith(b",") and error.pos >= len(error.doc) - 1:
        return f"line {line} ends with a comma; each line is an object by itself, without one"
    if text.strip() in (b"{", b"["):
        return f"line {line} begins an object that goes on in the next; write each row in one line, such as {_EXAMPLE}"
    if b"{'" in text[:100] or text[:20].lstrip(b"[{ ").startswith(b"'"):
        return f"line {line} has Python's quotes, not JSON's; write it with json.dumps, such as {_EXAMPLE}"
    return f"line {line} is not valid JSON ({error.msg}); mend that line"


def _type_problem(line: bytes, number: int, kinds: dict[str, tuple[str, int]], reading: Reading) -> str | None:
    """Whether a wanted column holds something else than in the lines before."""
    row = json.loads(line)
    if not isinstance(row, dict):
        return f"line {number} is no JSON object; write a row a line, such as {_EXAMPLE}"
    for column in reading.columns:
        kind = _kind_of(row.get(column))
        if kind and kinds.setdefault(column, (kind, number))[0] != kind:
            before, line_before = kinds[column]
            return (
                f"line {number}: column {column!r} holds {kind}, but {before} in line {line_before}; write it the same "
                "way in every row"
            )
    return None


def _kind_of(value: Any) -> str:
    kinds = {str: "text", bool: "a truth value", int: "a number", float: "a number"}
    kinds |= {list: "a list", dict: "an object"}
    return kinds.get(type(value), "")


def refuse_other_layouts(rows: Dataset, reading: Reading, shown: str) -> None:
    """Refuse what is JSON but not rows: a table by columns, or rows under a key.

    Args:
        rows: what `datasets` made of the file.
        reading: the columns that are wanted.
        shown: how messages name the file.

    Raises:
        DataError: how the rows stand there, and how to write them.
    """
    row = _only_object(rows, reading)
    if row is None:
        return
    lists = {key: value for key, value in row.items() if isinstance(value, list | dict)}
    under = [key for key, value in lists.items() if _is_rows(value, reading)]
    wanted = [key for key in lists if key in reading.columns]
    if wanted or {"columns", "data"} <= set(lists):
        wanted = wanted or ["data"]
        raise DataError(
            f"{shown} is a table by columns ({wanted[0]!r} holds all rows); write a row a line, such as {_EXAMPLE}; "
            'pandas does with to_json(…, orient="records", lines=True)'
        )
    if under:
        raise DataError(
            f"{shown} is one object that holds rows under {', '.join(map(repr, under[:3]))}; write each row as a line "
            f"by itself, such as {_EXAMPLE}, and each split as a file"
        )


def _only_object(rows: Dataset, reading: Reading) -> dict[str, Any] | None:
    """The single row of a file that may be no row; None for rows."""
    if len(rows) != 1 or not rows.column_names:
        return None
    row: dict[str, Any] = rows[0]
    if any(isinstance(row.get(column), str | int | float) for column in reading.columns):
        return None
    # Of words and tags, answers and choices a row has lists too, beside no more than one wanted column in any other.
    if reading.words or not reading.columns:
        return None
    if all(isinstance(row.get(column), list | dict) for column in reading.columns):
        return row
    return None if any(column in row for column in reading.columns) else row


def _is_rows(value: Any, reading: Reading) -> bool:
    if isinstance(value, dict):
        return any(column in value for column in reading.columns)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def refuse_printed_values(rows: Dataset, path: Path, columns: Sequence[str], shown: str) -> None:
    """Refuse lists and objects that were read as text, since the column held text in the rows before.

    Only lines are parsed whose text looks like a list or an object.

    Args:
        rows: what `datasets` made of the file, which it reads some megabytes at once.
        path: the file, not packed.
        columns: those that are wanted.
        shown: how messages name the file.

    Raises:
        DataError: the first such line.
    """
    perhaps: dict[int, list[str]] = {}
    for column in columns:
        if column not in rows.column_names:
            continue
        values = rows.data.column(column)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            looks = pc.match_substring_regex(values, r"^\s*[\[{]")
            for row in pc.indices_nonzero(pc.fill_null(looks, False)).to_pylist():
                perhaps.setdefault(row, []).append(column)
    if not perhaps:
        return
    with open_plain(path) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for row, (number, line) in enumerate(lines):
            for column in perhaps.get(row, ()):
                kind = _kind_of(_row_in(line).get(column))
                if kind in ("a list", "an object"):
                    raise DataError(
                        f"{shown}: line {number}: column {column!r} holds {kind}, but text in the rows before; write "
                        "it the same way in every row"
                    )


def _row_in(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one where rows do not stand one in a line."""
    try:
        value = json.loads(line.removeprefix(_MARK))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
