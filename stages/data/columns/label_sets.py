"""The labels of a multi_label task's rows, in whichever of the common forms they stand.

| form                               | a row                                            | names of the labels      |
|------------------------------------|--------------------------------------------------|--------------------------|
| list of names                      | `["joy", "love"]`                                | those in the rows        |
| list of numbers                    | `[18, 14]`                                       | `task.labels` by number  |
| 0 or 1 for each label              | `[0, 0, 1]`, `[true, false]`, `"0 0 1"`, `"001"` | `task.labels`, or 0, 1 … |
| object with 0 or 1 for each label  | `{"toxic": 1, "insult": 0}`                      | its keys                 |
| column of 0 and 1 for each label   | `label: [toxic, insult]`                         | the columns              |
| names in one text                  | `red, blue`                                      | those in the rows        |
| these lists and objects, as text   | `['joy', 'love']`, `['joy' 'love']`, `[1 0 0]`   | as above                 |

The form is decided once, on all rows of all splits. Rows that differ in form are refused, and so are forms that mean
two things.
"""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.kinds import MultiLabel
from schemas.core.wording import printable
from stages.data.columns.label_flags import FLAGS, LabelSets, sets_of_columns, sets_of_flags, sets_of_objects
from stages.data.columns.label_names import named_by_number
from stages.data.columns.label_texts import items_of_texts
from stages.data.columns.list_columns import Lists, list_column
from stages.data.columns.text_columns import Task, whole_number
from stages.data.readers.files import check_column, is_text

_PERHAPS_BETWEEN = ("/", "#", "+", "&", " ")
"""Signs that stand between names in some files, and in names in others."""
_Row = list[str] | dict[str, object]


def label_sets(task: Task, problem: MultiLabel, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> LabelSets:
    """Which labels every row of every split has.

    Args:
        task: names the column of labels, or the columns, and perhaps the labels.
        problem: names the separator of labels that stand in one text.
        raw: the splits as they were read, `train` first.
        where: how messages name each split.

    Raises:
        DataError: a row is of no such form, or of another than the rest; with its place and what to do.
    """
    if not isinstance(task.label, str):
        return sets_of_columns(task, raw, where)
    for split, rows in raw.items():
        if task.label not in rows.column_names:
            _refuse_missing_column(task, rows, where[split])
    rows_of, remarks = _rows_of_splits(task, problem, raw, where)
    if any(isinstance(row, dict) for rows in rows_of.values() for row in rows):
        return sets_of_objects(task, rows_of, where, remarks)
    lists = {split: _as_lists(rows) for split, rows in rows_of.items()}  # type: ignore[arg-type]
    return _read_lists(task, lists, raw, where, remarks)


def _refuse_missing_column(task: Task, rows: Dataset, where: str) -> None:
    others = {task.text, task.text_pair}
    flags = [name for name in flag_columns(rows) if name not in others]
    try:
        check_column(rows.column_names, task.label_column, where)
    except DataError as error:
        if len(flags) < 2:
            raise
        raise DataError(
            f"{error}; where each label has a column of 0 and 1, name them all: task.label: [{', '.join(flags)}]"
        ) from None


def flag_columns(rows: Dataset) -> list[str]:
    """Columns that hold both 0 and 1 and nothing else, as numbers, truth values or text."""
    found = []
    for name in rows.column_names:
        values = rows.data.column(name)
        if not pa.types.is_nested(values.type):
            distinct = {str(value) for value in values.unique().to_pylist()[:3]}
            if len(distinct) == 2 and {FLAGS.get(each) for each in distinct} == {0, 1}:
                found.append(name)
    return found


def _rows_of_splits(
    task: Task, problem: MultiLabel, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> tuple[dict[str, list[_Row]], tuple[str, ...]]:
    """Each row's list of items or its object, as text; and what was done to get there."""
    column = task.label_column
    texts: dict[str, list[str]] = {}
    rows_of: dict[str, list[_Row]] = {}
    for split, rows in raw.items():
        feature = rows.features[column]
        names = getattr(getattr(feature, "feature", None), "names", None)
        if is_text(feature):
            texts[split] = [
                _text(value, f"{where[split]}: row {row}: column {column!r}")
                for row, value in list_column(rows, column, where[split])
            ]
            continue
        rows_of[split] = [
            _row(value, f"{where[split]}: row {row}: column {column!r}", names)
            for row, value in list_column(rows, column, where[split])
        ]
    if not texts:
        return rows_of, ()
    read, remarks = items_of_texts(task, problem, texts, where)
    return {split: [*(rows_of.get(split) or read[split])] for split in raw}, remarks


def _text(value: str | None, where: str) -> str:
    if value is None:
        raise DataError(f"{where} is missing; write an empty text for a row without labels, or drop the row")
    return value.strip()


def _row(value: object, where: str, names: list[str] | None) -> _Row:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise DataError(
            f"{where} is {'missing' if value is None else repr(printable(str(value), 60))}, not a list; write "
            '["one", "two"], or name a column of 0 and 1 for each label: task.label: [one, two]'
        )
    return [_item(item, where, names) for item in value]


def _item(item: object, where: str, names: list[str] | None) -> str:
    """An item as text; a number that a data set of the hub has a name for is that name."""
    if isinstance(item, float) and item.is_integer():
        item = int(item)
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, int) and names is not None:
        if not 0 <= item < len(names):
            raise DataError(f"{where} holds {item}, which is hidden; take another split")
        return names[item]
    if isinstance(item, float):
        raise DataError(f"{where} holds {item}, but a label is there or not; write 1 or 0, such as 1 from 0.5 on")
    if not isinstance(item, str | int) or item == "":
        raise DataError(f"{where} holds {printable(str(item), 60)!r}, not a text; mend the row")
    return str(item)


def _as_lists(rows: list[list[str]]) -> Lists:
    flat = pa.array([item for row in rows for item in row], pa.string())
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    return Lists(pa.chunked_array([flat]), lengths)


def _read_lists(
    task: Task,
    lists: Mapping[str, Lists],
    raw: Mapping[str, Dataset],
    where: Mapping[str, str],
    remarks: tuple[str, ...],
) -> LabelSets:
    """Lists of names, of numbers, or of a 0 or 1 for each label: whichever all of them can be."""
    distinct = {item for each in lists.values() for item in pc.unique(each.flat).to_pylist()}
    named = set(task.labels or ())
    if distinct and distinct <= FLAGS.keys() and _are_flags(task, lists, where):
        return sets_of_flags(task, lists, where, remarks)
    if not distinct or distinct <= named or any(whole_number(each) is None for each in distinct):
        _refuse_hidden(task, lists, where, distinct - named)
        remarks += _remark_on_single(task, lists)
        return LabelSets(dict(lists), _declared(raw["train"], task.label_column), remarks)
    if place := _first_repeat(lists):
        split, row, item = place
        raise DataError(
            f"{where[split]}: row {row}: column {task.label!r} holds {item} twice; give the number of each label once, "
            "or a 0 or 1 for each label"
        )
    if task.labels is None:
        return LabelSets(dict(lists), _declared(raw["train"], task.label_column), remarks)
    return _by_number(task, task.labels, lists, remarks)


def _declared(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Names that a data set of the hub declares for the items of a list."""
    inner = getattr(rows.features[column], "feature", None)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _are_flags(task: Task, lists: Mapping[str, Lists], where: Mapping[str, str]) -> bool:
    """Whether lists of nothing but 0 and 1 have one for each label; the labels 0 and 1 may be meant."""
    lengths = {int(length) for each in lists.values() for length in np.unique(each.lengths)}
    if len(lengths) == 1:
        if lengths != {1}:
            return True
        if task.labels is None:
            raise DataError(
                f"{where['train']}: column {task.label!r} holds a single 0 or 1 in every row, which is one label; name "
                "several columns, task.label: [one, two], or set task.problem to classification"
            )
        return False
    if _first_repeat(lists) is None and "true" not in _items(lists):
        return False
    split, row, found, wanted = _first_of_other_length(lists)
    raise DataError(
        f"{where[split]}: row {row}: column {task.label!r} holds {found} values of 0 and 1 but row 1 of train "
        f"{wanted}; give every row one for each label"
    )


def _items(lists: Mapping[str, Lists]) -> set[str]:
    return {item.lower() for each in lists.values() for item in pc.unique(each.flat).to_pylist()}


def _first_of_other_length(lists: Mapping[str, Lists]) -> tuple[str, int, int, int]:
    wanted = int(lists["train"].lengths[0])
    for split, each in lists.items():
        other = np.flatnonzero(each.lengths != wanted)
        if len(other):
            return split, int(other[0]) + 1, int(each.lengths[other[0]]), wanted
    raise AssertionError("all lists are as long as the first")


def _first_repeat(lists: Mapping[str, Lists]) -> tuple[str, int, str] | None:
    """Split, row and item where a row holds an item twice."""
    for split, each in lists.items():
        for row, items in enumerate(each.by_row(), start=1):
            if len(set(items)) != len(items):
                return split, row, next(item for item in items if items.count(item) > 1)
    return None


def _refuse_hidden(task: Task, lists: Mapping[str, Lists], where: Mapping[str, str], distinct: set[str]) -> None:
    """Refuse -1 beside numbers: it hides a label, or says that nobody judged it."""
    if "-1" not in distinct or any(whole_number(each.removeprefix("-")) is None for each in distinct):
        return
    for split, each in lists.items():
        place = each.flat.index("-1").as_py()
        if place >= 0:
            raise DataError(
                f"{where[split]}: row {each.row_of(place)}: column {task.label!r} holds -1, which hides a label; drop "
                "the row, or take another split"
            )


def _by_number(task: Task, labels: tuple[str, ...], lists: Mapping[str, Lists], remarks: tuple[str, ...]) -> LabelSets:
    """Numbers that count the names of `task.labels` from 0."""
    flat = {split: each.flat for split, each in lists.items()}
    names, said = named_by_number(flat, labels, f"task: column {task.label!r}")
    named = {split: Lists(names[split], each.lengths) for split, each in lists.items()}
    return LabelSets(named, labels, (*remarks, *said))


def _remark_on_single(task: Task, lists: Mapping[str, Lists]) -> tuple[str, ...]:
    """Rows of several labels are why a task is of this kind: where there is none, names may not have been parted."""
    if any((each.lengths > 1).any() for each in lists.values()):
        return ()
    names = sorted(name for each in lists.values() for name in pc.unique(each.flat).to_pylist())
    joined = next((name for sign in _PERHAPS_BETWEEN for name in names if sign in name.strip(sign)), None)
    hint = "" if joined is None else f" (where {printable(joined, 40)!r} is several, set task.problem.separator)"
    return (
        f"task.label: no row of column {task.label!r} has more than one label{hint}; task.problem: classification is "
        "for one in every row",
    )
