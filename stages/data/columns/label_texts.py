"""Sets of labels in one text: a printed list or object, zeros and ones, or names between separators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.columns import Columns
from stages.data.columns.written_lists import NotAList, is_written_list, lists_by_name, written_list

_SEPARATORS = (",", ";", "|", "，", "、", "；", "\n", "\t")
"""Signs that may separate names if the recipe gives none."""
_SIGN_NAMES = {"\n": "a line break", "\t": "a tab"}
_FLAG = r"(?:[01](?:\.0*)?|true|false)"
_FLAG_TEXT = re.compile(rf"{_FLAG}(?:[\s,;|]+{_FLAG})+", re.IGNORECASE)
_BITS = re.compile("[01]{2,}")
_MISSING = frozenset(("nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "NaT", "#N/A"))

Row = list[str] | dict[str, object]
"""Items of a list, or the flags of an object by label."""
_Texts = Mapping[str, list[str]]


def parse_label_texts(
    columns: Columns, texts: _Texts, labels: tuple[str, ...], separator: str | None
) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """Parse every text into a list of items or an object, all in the same way.

    Args:
        columns: the columns that hold the texts.
        texts: stripped texts of every split; an empty text is a row without labels.
        labels: names that the task lists, which are never split.
        separator: sign between names, from the recipe.

    Returns:
        The rows of every split, and a remark on the chosen reading.

    Raises:
        DataError: the texts differ in form, or a list cannot be parsed.
    """
    distinct = {text for rows in texts.values() for text in rows if text and text not in labels}
    if any(is_written_list(text) for text in distinct):
        return _parse_written(columns, texts)
    if distinct and all(_FLAG_TEXT.fullmatch(text) for text in distinct):
        return _parse_flags(columns, texts, re.compile(r"[\s,;|]+").split), ()
    if _are_bits(distinct, labels):
        return _parse_flags(columns, texts, list), ()
    if missing := distinct & _MISSING:
        split, row, text = _first(texts, missing)
        raise columns[split].error(
            row,
            f"is {text}, which stands for a missing value; leave the field empty for a row without labels, drop the "
            "row, or list the name in task.labels",
        )
    sign, remarks = _separator(columns, texts, distinct, separator)
    items: dict[str, Row] = {
        text: [part.strip() for part in text.split(sign) if part.strip()] for text in {*distinct, ""}
    }
    items |= {name: [name] for name in labels}
    return {split: [items[text] for text in rows] for split, rows in texts.items()}, remarks


def _first(texts: _Texts, wanted: set[str]) -> tuple[str, int, str]:
    """Return split, row and text of the first of the wanted texts."""
    return next(location for location in _located(texts) if location[2] in wanted)


def _located(texts: _Texts) -> Iterator[tuple[str, int, str]]:
    return ((split, row, text) for split, rows in texts.items() for row, text in enumerate(rows, start=1))


def _parse_written(columns: Columns, texts: _Texts) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """Parse printed lists and objects."""
    distinct = {text for rows in texts.values() for text in rows}
    written = {text for text in distinct if is_written_list(text)}
    example = printable(_first(texts, written)[2], 40)
    if distinct != written:
        split, row, text = _first(texts, distinct - written)
        raise columns[split].error(
            row,
            f"is {printable(text, 60) or 'empty'}, but other rows hold lists such as {example}; write every row as a "
            "list, [] for a row without labels",
        )
    parsed: dict[str, Row] = {}
    for split, row, text in _located(texts):
        if text not in parsed:
            parsed[text] = _parse_list(text, columns[split].at(row))
    form = "objects" if any(isinstance(row, dict) for row in parsed.values()) else "lists"
    name = next(iter(columns.values())).name
    remark = f"task.label: the texts of column {name!r}, such as {example}, are read as {form}"
    return {split: [parsed[text] for text in rows] for split, rows in texts.items()}, (remark,)


def _parse_list(text: str, where: str) -> Row:
    try:
        by_name = lists_by_name(text) or {}
        # Label Studio writes {"choices": ["joy", "love"]}.
        items = next(iter(by_name.values())) if len(by_name) == 1 else written_list(text)
    except NotAList as error:
        raise DataError(f'{where}: {printable(text, 60)} {error}; write ["one", "two"]') from None
    if isinstance(items, dict):
        return dict(items)
    if not all(items):
        bad = "a missing value" if None in items else "an empty name"
        raise DataError(f"{where}: {printable(text, 60)} holds {bad}; leave it out, or drop the row")
    return [item for item in items if item]


def _are_bits(texts: set[str], labels: tuple[str, ...]) -> bool:
    """Return whether texts such as 0010 hold a 0 or 1 for each label; a number has no leading zero."""
    if not texts or not all(_BITS.fullmatch(text) for text in texts):
        return False
    widths = {len(text) for text in texts}
    return len(widths) == 1 and (widths == {len(labels)} or any(text.startswith("0") for text in texts))


def _parse_flags(columns: Columns, texts: _Texts, split_text: Callable[[str], list[str]]) -> dict[str, list[Row]]:
    for split, row, text in _located(texts):
        if not text:
            raise columns[split].error(
                row, "is empty, but other rows hold a 0 or 1 for each label; write these, or drop the row"
            )
    return {split: [split_text(text) for text in rows] for split, rows in texts.items()}


def _separator(
    columns: Columns, texts: _Texts, distinct: set[str], separator: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the sign between names, and a remark if it could be another one."""
    signs = [sign for sign in _SEPARATORS if any(sign in text for text in distinct)]
    name = next(iter(columns.values())).name
    if separator is not None:
        others = [sign for sign in signs if sign not in separator]
        if not others or any(separator in text for text in distinct):
            return separator, ()
        return separator, (
            f"task.problem.separator: no row of column {name!r} holds {_named(separator)}, and some hold "
            f"{_named(others[0])}",
        )
    if len(signs) > 1:
        split, row, text = _first(texts, {text for text in distinct if signs[1] in text})
        raise columns[split].error(
            row,
            f"is {printable(text, 60)!r}; {_named(signs[0])} and {_named(signs[1])} may both separate names: choose "
            f'one, task.problem: {{kind: multi_label, separator: "{printable(signs[0], 4)}"}}',
        )
    if not signs or signs == [","]:
        return ",", ()
    return signs[0], (
        f"task.label: the texts of column {name!r} are split into labels at {_named(signs[0])}; set "
        "task.problem.separator to choose another sign",
    )


def _named(sign: str) -> str:
    return _SIGN_NAMES.get(sign, repr(sign))
