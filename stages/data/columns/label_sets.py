"""Sets of labels of a multi_label task's rows, in any of the common forms.

| form                               | a row                                            | names of the labels      |
|------------------------------------|--------------------------------------------------|--------------------------|
| list of names                      | `["joy", "love"]`                                | those in the rows        |
| list of numbers                    | `[18, 14]`                                       | `task.labels` by number  |
| 0 or 1 for each label              | `[0, 0, 1]`, `[true, false]`, `"0 0 1"`, `"001"` | `task.labels`, or 0, 1 … |
| object with 0 or 1 for each label  | `{"toxic": 1, "insult": 0}`                      | its keys                 |
| column of 0 and 1 for each label   | `label: [toxic, insult]`                         | the columns              |
| names in one text                  | `red, blue`                                      | those in the rows        |
| such a list or object, as text     | `['joy', 'love']`, `['joy' 'love']`, `[1 0 0]`   | as above                 |

One form is chosen for all rows of all splits. Rows that differ in form are refused, and so are ambiguous columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import MultiLabel
from schemas.core.wording import printable
from stages.data.columns.class_names import names_by_number
from stages.data.columns.columns import Column, Columns, Parsed, columns_of, shown
from stages.data.columns.label_flags import (
    FLAGS,
    flag_columns,
    sets_from_columns,
    sets_from_flags,
    sets_from_objects,
)
from stages.data.columns.label_names import check_set_names, sorted_names
from stages.data.columns.label_texts import Row, parse_label_texts
from stages.data.columns.list_columns import Lists, declared_names, distinct_items, item_text
from stages.data.columns.text_columns import Task, whole_number
from stages.data.readers.files import check_column, is_text

_POSSIBLE_SEPARATORS = ("/", "#", "+", "&", " ")
"""Signs that separate names in some files and belong to names in others."""


def read_label_sets(
    task: Task, problem: MultiLabel, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> Parsed[Lists]:
    """Return the names of every row's labels, and all names in the order of the head's outputs.

    Args:
        task: names the column of labels, or the columns, and may list the labels.
        problem: may give the separator of labels in one text.
        raw: the splits as read, `train` first.
        where: location of each split in messages.

    Raises:
        DataError: a row has none of these forms, or another one than the rest; or there are fewer than two labels.
    """
    sets = _read(task, problem, raw, where)
    labels, remarks = task.labels or sets.labels, sets.remarks
    if not labels:
        remarks += check_set_names(sets.splits, where, task.label_column)
        labels = sorted_names(sets.splits["train"].flat.unique().to_pylist())
    if len(labels) < 2:
        raise DataError(
            f"{where['train']}: column {task.label!r} has {len(labels)} label in all; a multi_label task needs two or "
            "more"
        )
    return Parsed(sets.splits, labels, remarks)


def _read(task: Task, problem: MultiLabel, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> Parsed[Lists]:
    """Read the sets; the labels are empty if the training rows decide them."""
    if not isinstance(task.label, str):
        return sets_from_columns(task, raw, where)
    columns = columns_of(raw, task.label, where)
    for column in columns.values():
        _check_column(task, column)
    rows_of, remarks = _rows_of_splits(columns, task.labels or (), problem.separator)
    lists: dict[str, Lists] = {}
    for split, rows in rows_of.items():
        items = [row for row in rows if isinstance(row, list)]
        if len(items) != len(rows):
            return sets_from_objects(rows_of, columns, task.labels, remarks)
        lists[split] = Lists.of(items)
    distinct = distinct_items(lists.values())
    if distinct and distinct <= FLAGS.keys() and _are_flags(columns, lists, distinct, task.labels):
        return sets_from_flags(lists, columns, task.labels, remarks)
    unlisted = distinct - set(task.labels or ())
    declared = declared_names(raw["train"], task.label)
    if not unlisted or any(whole_number(item) is None for item in distinct):
        _refuse_hidden(columns, lists, unlisted)
        return Parsed(lists, declared, remarks + _remark_on_single(columns["train"].name, lists, distinct))
    if repeat := _first_repeat(lists):
        split, row, item = repeat
        raise columns[split].error(
            row, f"holds {item} twice; give the number of each label once, or a 0 or 1 for each label"
        )
    if task.labels is None:
        return Parsed(lists, declared, remarks)
    flat = {split: column.flat for split, column in lists.items()}
    names, remark = names_by_number(flat, task.labels, f"task: column {task.label!r}")
    numbered = {split: Lists(names[split], column.lengths) for split, column in lists.items()}
    return Parsed(numbered, task.labels, remarks + remark)


def _check_column(task: Task, column: Column) -> None:
    """Refuse a missing column, and offer the columns of flags if there are several."""
    try:
        check_column(column.rows.column_names, column.name, column.where)
    except DataError as error:
        flags = [name for name in flag_columns(column.rows) if name not in (task.text, task.text_pair)]
        if len(flags) < 2:
            raise
        raise DataError(
            f"{error}; if each label has a column of 0 and 1, name them all: task.label: [{', '.join(flags)}]"
        ) from None


def _rows_of_splits(
    columns: Columns, labels: tuple[str, ...], separator: str | None
) -> tuple[dict[str, list[Row]], tuple[str, ...]]:
    """Return each row's list of items or its object, with items as text; and remarks."""
    texts: dict[str, list[str]] = {}
    rows_of: dict[str, list[Row]] = {}
    for split, column in columns.items():
        if is_text(column.rows.features[column.name]):
            texts[split] = [_text(column, row, value) for row, value in column.numbered()]
        else:
            names = declared_names(column.rows, column.name)
            rows_of[split] = [_row(column, row, value, names) for row, value in column.numbered()]
    if not texts:
        return rows_of, ()
    parsed, remarks = parse_label_texts(columns, texts, labels, separator)
    return {split: (rows_of | parsed)[split] for split in columns}, remarks


def _text(column: Column, row: int, value: str | None) -> str:
    if value is None:
        raise column.error(row, "is missing; write an empty text for a row without labels, or drop the row")
    return value.strip()


def _row(column: Column, row: int, value: object, names: tuple[str, ...]) -> Row:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise column.error(
            row,
            f'is {shown(value)}, not a list; write ["one", "two"], or name a column of 0 and 1 for each label: '
            "task.label: [one, two]",
        )
    items = []
    for item in value:
        if isinstance(item, float):
            if not item.is_integer():
                raise column.error(row, f"holds {item}, but a flag is 1 or 0; write 1 or 0, such as 1 from 0.5 up")
            item = int(item)
        items.append(str(item).lower() if isinstance(item, bool) else item_text(item, column.at(row), names))
    return items


def _are_flags(
    columns: Columns, lists: Mapping[str, Lists], distinct: set[str], labels: tuple[str, ...] | None
) -> bool:
    """Return whether lists of nothing but 0 and 1 hold a flag for each label, rather than the labels 0 and 1."""
    wanted = int(lists["train"].lengths[0])
    odd = [(split, np.flatnonzero(column.lengths != wanted)) for split, column in lists.items()]
    split, rows = next(((split, rows) for split, rows in odd if len(rows)), ("", None))
    if rows is None:
        if wanted == 1 and labels is None:
            raise DataError(
                f"{columns['train'].where}: column {columns['train'].name!r} holds a single 0 or 1 in every row, which "
                "is one label; name several columns, task.label: [one, two], or set task.problem to classification"
            )
        return wanted != 1
    if _first_repeat(lists) is None and not any(item.lower() == "true" for item in distinct):
        return False
    row = int(rows[0])
    raise columns[split].error(
        row + 1,
        f"holds {lists[split].lengths[row]} values of 0 and 1 but row 1 of train {wanted}; give every row one for each "
        "label",
    )


def _first_repeat(lists: Mapping[str, Lists]) -> tuple[str, int, str] | None:
    """Return split, row and item of the first row that holds an item twice."""
    for split, column in lists.items():
        for row, items in enumerate(column.by_row(), start=1):
            if len(set(items)) != len(items):
                return split, row, next(item for item in items if items.count(item) > 1)
    return None


def _refuse_hidden(columns: Columns, lists: Mapping[str, Lists], distinct: set[str]) -> None:
    """Refuse -1 beside numbers: it hides a label, or marks one that nobody judged."""
    if "-1" not in distinct or any(whole_number(item.removeprefix("-")) is None for item in distinct):
        return
    for split, column in lists.items():
        index = column.flat.index("-1").as_py()
        if index >= 0:
            raise columns[split].error(
                column.row_of(index), "holds -1, which hides a label; drop the row, or use another split"
            )


def _remark_on_single(name: str, lists: Mapping[str, Lists], distinct: set[str]) -> tuple[str, ...]:
    """Remark on rows that never have several labels: a separator may have been missed."""
    if any((column.lengths > 1).any() for column in lists.values()):
        return ()
    names = sorted(distinct)
    joined = next((item for sign in _POSSIBLE_SEPARATORS for item in names if sign in item.strip(sign)), None)
    hint = "" if joined is None else f" (if {printable(joined, 40)!r} means several, set task.problem.separator)"
    return (
        f"task.label: no row of column {name!r} has more than one label{hint}; task.problem: classification is for one "
        "label per row",
    )
