"""Sets of labels that stand in one text: a printed list or object, zeros and ones, or names between separators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from schemas.core.errors import DataError
from schemas.core.kinds import MultiLabel
from schemas.core.wording import printable
from stages.data.columns.text_columns import Task
from stages.data.columns.written_lists import NotAList, is_written_list, lists_by_name, written_list

_SEPARATORS = (",", ";", "|", "，", "、", "；", "\n", "\t")
"""What is looked for between names where the recipe does not say it."""
_SHOWN = {"\n": "a line's end", "\t": "a tab"}
_FLAG = r"(?:[01](?:\.0*)?|true|false)"
_FLAG_TEXT = re.compile(rf"{_FLAG}(?:[\s,;|]+{_FLAG})+", re.IGNORECASE)
_BITS = re.compile("[01]{2,}")
_MISSING = frozenset(("nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "NaT", "#N/A"))

_Row = list[str] | dict[str, object]
_Texts = Mapping[str, list[str]]
_Read = tuple[dict[str, list[_Row]], tuple[str, ...]]


def items_of_texts(task: Task, problem: MultiLabel, texts: _Texts, where: Mapping[str, str]) -> _Read:
    """Each text as a list of items or as an object, all in the same way; and a remark on that way.

    Args:
        task: names the column, and perhaps the labels.
        problem: perhaps names the separator.
        texts: every split's texts without blanks around them; an empty one is a row without labels.
        where: how messages name each split.

    Raises:
        DataError: the texts differ in form, or one of them is broken; with its place and what to do.
    """
    named = set(task.labels or ())
    told = {text for rows in texts.values() for text in rows if text and text not in named}
    if any(is_written_list(text) for text in told):
        return _written(task, texts, where)
    if told and all(_FLAG_TEXT.fullmatch(text) for text in told):
        return _flags(task, texts, where, re.compile(r"[\s,;|]+").split)
    if _are_bits(told, task):
        return _flags(task, texts, where, list)
    _refuse_missing(task, texts, where, told)
    separator, remarks = _separator(task, problem, texts, where, told)
    cut = {text: _cut(text, separator, named) for text in {*told, *named, ""}}
    return {split: [cut[text] for text in rows] for split, rows in texts.items()}, remarks


def _cut(text: str, separator: str, named: set[str]) -> _Row:
    if text in named:
        return [text]
    return [part.strip() for part in text.split(separator) if part.strip()]


def _first(texts: _Texts, wanted: set[str]) -> tuple[str, int, str]:
    """Split, row and text of the first of the wanted texts."""
    for split, row, text in _each(texts):
        if text in wanted:
            return split, row, text
    raise AssertionError("none of the texts is there")


def _each(texts: _Texts) -> Iterator[tuple[str, int, str]]:
    for split, rows in texts.items():
        for row, text in enumerate(rows, start=1):
            yield split, row, text


def _written(task: Task, texts: _Texts, where: Mapping[str, str]) -> _Read:
    """Printed lists and objects."""
    distinct = {text for rows in texts.values() for text in rows}
    example = _first(texts, {text for text in distinct if is_written_list(text)})[2]
    shown = printable(example, 40)
    others = {text for text in distinct if not is_written_list(text)}
    if others:
        split, row, text = _first(texts, others)
        raise DataError(
            f"{where[split]}: row {row}: column {task.label!r} is {printable(text, 60) or 'empty'}, but other rows "
            f"hold lists such as {shown}; write every row as a list, [] where there is no label"
        )
    read: dict[str, _Row] = {}
    for split, row, text in _each(texts):
        if text not in read:
            read[text] = _read(text, f"{where[split]}: row {row}: column {task.label!r}")
    kind = "objects" if any(isinstance(row, dict) for row in read.values()) else "lists"
    remark = f"task.label: the texts of column {task.label!r}, such as {shown}, are read as {kind}"
    return {split: [read[text] for text in rows] for split, rows in texts.items()}, (remark,)


def _read(text: str, where: str) -> _Row:
    try:
        by_name = lists_by_name(text) or {}
        # Label Studio's {"choices": ["joy", "love"]}.
        found = next(iter(by_name.values())) if len(by_name) == 1 else written_list(text)
    except NotAList as error:
        raise DataError(f'{where}: {printable(text, 60)} {error}; write ["one", "two"]') from None
    if isinstance(found, dict):
        return dict(found)
    items: list[str] = []
    for item in found:
        if not item:
            raise DataError(
                f"{where}: {printable(text, 60)} holds {'a missing value' if item is None else 'an empty name'}; leave "
                "it out, or drop the row"
            )
        items.append(item)
    return [*items]


def _are_bits(told: set[str], task: Task) -> bool:
    """Whether texts such as 0010 hold a 0 or 1 for each label: numbers are not written with a 0 in front."""
    if not told or not all(_BITS.fullmatch(text) for text in told):
        return False
    widths = {len(text) for text in told}
    is_named = task.labels is not None and widths == {len(task.labels)}
    return len(widths) == 1 and (is_named or any(text.startswith("0") for text in told))


def _flags(task: Task, texts: _Texts, where: Mapping[str, str], cut: Callable[[str], list[str]]) -> _Read:
    for split, row, text in _each(texts):
        if not text:
            raise DataError(
                f"{where[split]}: row {row}: column {task.label!r} is empty, but other rows hold a 0 or 1 for each "
                "label; do so, or drop the row"
            )
    return {split: [[*cut(text)] for text in rows] for split, rows in texts.items()}, ()


def _refuse_missing(task: Task, texts: _Texts, where: Mapping[str, str], told: set[str]) -> None:
    if missing := told & _MISSING:
        split, row, text = _first(texts, missing)
        raise DataError(
            f"{where[split]}: row {row}: column {task.label!r} is {text}, which stands for a missing value; leave the "
            "field empty where a row has no label, drop the row, or list the name in task.labels"
        )


def _separator(
    task: Task, problem: MultiLabel, texts: _Texts, where: Mapping[str, str], told: set[str]
) -> tuple[str, tuple[str, ...]]:
    """What stands between names; and a remark where it could be something else."""
    found = [sign for sign in _SEPARATORS if any(sign in text for text in told)]
    if problem.separator is not None:
        others = [sign for sign in found if sign not in problem.separator]
        if others and not any(problem.separator in text for text in told):
            return problem.separator, (
                f"task.problem.separator: no row of column {task.label!r} holds {_shown(problem.separator)}, and "
                f"some hold {_shown(others[0])}",
            )
        return problem.separator, ()
    if len(found) > 1:
        split, row, text = _first(texts, {text for text in told if found[1] in text})
        raise DataError(
            f"{where[split]}: row {row}: column {task.label!r} is {printable(text, 60)!r}; {_shown(found[0])} and "
            f"{_shown(found[1])} both stand between names: say which separates them, task.problem: {{kind: "
            f'multi_label, separator: "{printable(found[0], 4)}"}}'
        )
    if not found or found == [","]:
        return ",", ()
    return found[0], (
        f"task.label: the texts of column {task.label!r} are cut into labels at {_shown(found[0])}; set "
        "task.problem.separator for another",
    )


def _shown(sign: str) -> str:
    return _SHOWN.get(sign, repr(sign))
