"""Checks of class names that nobody listed: names for missing labels, several spellings, values, ids.

Names that a task lists in `task.labels`, or that a data set declares, are accepted unchecked.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable, suggestion
from stages.data.columns.list_columns import Lists
from stages.data.readers.files import listed

Counts = Mapping[str, int]
"""Number of rows with each name."""

MISSING_LABELS = frozenset(
    ("-", "--", "---", "–", "—", "?", "??", "nan", "<na>", "#n/a", "nat", "null", "(null)", r"\n")
)
"""Names, in lower case, that mark a missing label."""
MAYBE_MISSING = frozenset(
    ("none", "n/a", "na", "n.a.", "nil", "undefined", "missing", "unlabeled", "unlabelled", "no label")
)
"""Names, in lower case, that mark a missing label or are a class, as in `favor`, `against`, `none`."""

NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d{1,18}")
_IGNORED = "-100"  # torch's cross entropy leaves it out
_LONGEST_MARK = 20
"""Characters of the longest name that may mark a missing label."""
_KEEP = "list every label in task.labels"


def name_counts(names: pa.ChunkedArray) -> dict[str, int]:
    """Return the number of rows with each name."""
    return {entry["values"]: entry["counts"] for entry in names.value_counts().to_pylist()}


def sorted_names(distinct: list[str]) -> tuple[str, ...]:
    """Return names in the order of their classes: whole numbers by size, others alphabetically."""
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def missing_label_names(counts: Counts, listed_labels: Sequence[str] | None) -> frozenset[str]:
    """Return the names that mark rows without a label, such as `-`, `nan`, or SNLI's -1.

    Args:
        counts: number of rows with each name, over all splits.
        listed_labels: classes that the task lists; these names are never marks.
    """
    short = {name for name in counts.keys() - set(listed_labels or ()) if len(name) <= _LONGEST_MARK}
    marks = MISSING_LABELS if listed_labels is None else MISSING_LABELS | MAYBE_MISSING
    missing = {name for name in short if _folded(name) in marks}
    others = counts.keys() - missing
    if "+" in counts or not any(letter.isalnum() for name in others for letter in name):
        return frozenset()  # `+` and `-`, and sets of signs, are classes
    negative = {name for name in short if name in ("-1", "-1.0", _IGNORED)}
    rest = others - negative
    # datasets marks hidden labels by -1. Beside 0 and 1 it may be a third class; beside 0, 1, 2 or words it is none.
    numbers = {int(name) for name in rest if WHOLE.fullmatch(name)}
    are_classes = len(numbers) == len(rest) > 2 and numbers == set(range(len(numbers)))
    if listed_labels is None and numbers and not are_classes:
        negative &= {_IGNORED}
    return frozenset(missing | negative if rest else missing)


def check_class_names(names: Mapping[str, pa.ChunkedArray], where: Mapping[str, str], column: str) -> tuple[str, ...]:
    """Return remarks on class names that nobody listed.

    Args:
        names: of the rows of each split, `train` among them.
        where: location of each split in messages.
        column: of the labels.

    Raises:
        DataError: the names are values, ids or several spellings of one name.
    """
    counts = name_counts(names["train"])
    rows, location = sum(counts.values()), f"{where['train']}: column {column!r}"
    proper = [name for name in counts if _folded(name) not in MAYBE_MISSING]
    fractions = [name for name in proper if not WHOLE.fullmatch(name)]
    if fractions and all(NUMBER.fullmatch(name.rstrip(" %")) for name in proper):
        raise DataError(
            f"{location} holds values such as {listed(sorted(fractions)[:3])}, {len(proper):,} different ones, and "
            f"each would be a class; set task.problem to regression, or {_KEEP}"
        )
    if len(counts) >= 10 and 2 * len(counts) > rows:
        raise DataError(
            f"{location} has {len(counts):,} different labels in {rows:,} rows, such as {listed(sorted(counts)[:3])}; "
            f"name the column of the classes in task.label, or {_KEEP}"
        )
    refuse_twins(names, where, column)
    return tuple(f"{location}: {remark}" for remark in _class_remarks(counts, rows))


def _class_remarks(counts: Counts, rows: int) -> list[str]:
    """Return remarks on names that may be no class, on numbers, on rare names and on joined names."""
    remarks = [
        f"label {printable(name, 60)!r} in {number:,} of {rows:,} rows is read as a class; drop its rows if "
        f"it marks a missing label, or {_KEEP}"
        for name, number in counts.items()
        if _folded(name) in MAYBE_MISSING or (name in ("-1", "-1.0") and number < 0.02 * rows and "0" in counts)
    ]
    if len(counts) > 30 and all(WHOLE.fullmatch(name) for name in counts):
        remarks.append(
            f"{len(counts):,} different numbers are read as classes; set task.problem to regression if they are "
            f"values, or {_KEEP}"
        )
    if len(counts) > 5 and 5 * len(counts) > rows:
        remarks.append(
            f"{len(counts):,} different labels in {rows:,} rows are read as classes, {rows / len(counts):.1f} rows "
            f"each; name another column in task.label if they are not classes, or {_KEEP}"
        )
    parts_of = {name: [part.strip() for part in re.split(r"[,;|]", name)] for name in counts}
    joined = next((name for name, parts in parts_of.items() if len(parts) > 1 and set(parts) <= counts.keys()), None)
    if joined is not None:
        remarks.append(
            f"label {printable(joined, 60)!r} in {counts[joined]:,} rows is read as a class; set "
            "task.problem to multi_label if it means several"
        )
    return remarks


def check_set_names(lists: Mapping[str, Lists], where: Mapping[str, str], column: str) -> tuple[str, ...]:
    """Return remarks on the names in sets of labels that nobody listed.

    Raises:
        DataError: some are several spellings of one name.
    """
    refuse_twins_in_lists(lists, where, column)
    return tuple(
        f"{where['train']}: column {column!r}: label {printable(name, 60)!r} is read as a label "
        f"({number:,} rows); leave it out if it marks a missing label, or {_KEEP}"
        for name, number in name_counts(lists["train"].flat).items()
        if _folded(name) in MISSING_LABELS | MAYBE_MISSING
    )


def refuse_twins_in_lists(lists: Mapping[str, Lists], where: Mapping[str, str], column: str) -> None:
    """Refuse several spellings of one name among the items of lists."""
    flat = {split: items.flat for split, items in lists.items()}
    refuse_twins(flat, where, column, lambda split, index: lists[split].row_of(index))


def refuse_twins(
    names: Mapping[str, pa.ChunkedArray],
    where: Mapping[str, str],
    column: str,
    row_of: Callable[[str, int], int] = lambda _split, index: index + 1,
) -> None:
    """Refuse several spellings of one name: case, blanks, forms of a letter, ways to write a number.

    Args:
        names: of the rows, or of the items of their lists, of each split.
        where: location of each split in messages.
        column: of the labels.
        row_of: row, counted from 1, of an index in a split's names.

    Raises:
        DataError: with the names, their counts, and the first row of the rarest.
    """
    counts = Counter[str]()
    alike: dict[str, list[str]] = {}
    for column_names in names.values():
        counts.update(name_counts(column_names))
    for name in counts:
        alike.setdefault(_spelling(name), []).append(name)
    twins = next((same for same in alike.values() if len(same) > 1), None)
    if twins is None:
        return
    twins.sort(key=lambda name: -counts[name])
    examples = ", ".join(f"{_quoted(name)} ({counts[name]:,})" for name in twins[:5])
    for split, column_names in names.items():
        if (index := pc.index(column_names, twins[-1]).as_py()) >= 0:
            raise DataError(
                f"{where[split]}: row {row_of(split, index)}: column {column!r}: the labels {examples} differ only by "
                f"case, blanks or the form of their letters; write them the same, or {_KEEP} to keep them apart"
            )


def spelling_hint(name: str, labels: Sequence[str]) -> str:
    """Return ` (did you mean X?)` for the label that is spelled like `name`, or nearly; otherwise an empty text."""
    twin = next((label for label in labels if _spelling(label) == _spelling(name)), None)
    return suggestion(name, labels) if twin is None else f" (did you mean {_quoted(twin)}?)"


def _quoted(name: str) -> str:
    # NFC and NFD, or a blank and a no-break space, look the same on a terminal.
    return repr(printable(name, 60)) if name.isascii() else ascii(name[:60])


def _spelling(name: str) -> str:
    """Return a name without case, blanks, forms of letters and ways to write a number."""
    folded = _folded(name)
    return repr(float(folded.replace(",", "."))) if NUMBER.fullmatch(folded) else folded


def _folded(name: str) -> str:
    """Return a name in lower case and NFKC, without control characters and with single blanks."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    if not name.isprintable():
        name = "".join(sign for sign in name if sign.isspace() or unicodedata.category(sign) not in ("Cf", "Cc"))
    name = " ".join(name.casefold().replace("\u2212", "-").split())
    return name if name.isascii() else unicodedata.normalize("NFC", name)
