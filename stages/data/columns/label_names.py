"""What a column of class names tells when nobody listed the classes: names that mean none, twins, values, ids.

A task that lists its classes in `task.labels`, and a data set that declares them, are taken at their word: there, what
stands here is not looked at, but for numbers that stand for the names.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.core.errors import DataError
from schemas.core.wording import printable, suggestion
from stages.data.columns.list_columns import Lists
from stages.data.readers.files import listed

Counts = Mapping[str, int]
"""Rows of each name."""

MISSING_LABELS = frozenset(
    ("-", "--", "---", "–", "—", "?", "??", "nan", "<na>", "#n/a", "nat", "null", "(null)", r"\n")
)
"""Names, in small letters, by which a file says that a row has no label."""
MAYBE_MISSING = frozenset(
    ("none", "n/a", "na", "n.a.", "nil", "undefined", "missing", "unlabeled", "unlabelled", "no label")
)
"""Names, in small letters, that may say so, or be a class as in `favor`, `against`, `none`."""

_WHOLE = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_IGNORED = "-100"  # what torch's cross entropy leaves out
_UNSEEN = ("Cf", "Cc")
_MANY_NUMBERS = 30
_FEW_LABELS = 10
_FEW_ROWS = 5
_RARE = 0.02
_LONGEST = 20
"""Characters of a name that may say that there is none."""
_KEEP = "list every label in task.labels"


def name_counts(names: pa.ChunkedArray) -> dict[str, int]:
    """Rows of each name of a column."""
    return {each["values"]: each["counts"] for each in names.value_counts().to_pylist()}


def missing_label_names(counts: Counts, listed_labels: Sequence[str] | None) -> frozenset[str]:
    """The names of rows that have no label, such as `-`, `nan`, or SNLI's -1.

    Args:
        counts: rows of each name, of all splits.
        listed_labels: the task's own list of classes, whose names are classes whatever they look like.
    """
    classes = {name for name in counts.keys() - set(listed_labels or ()) if len(name) <= _LONGEST}
    found = {name for name in classes if _folded(name) in MISSING_LABELS}
    if listed_labels is not None:
        found |= {name for name in classes if _folded(name) in MAYBE_MISSING}
    others = counts.keys() - found
    if "+" in counts or not any(letter.isalnum() for name in others for letter in name):
        return frozenset()  # `+` and `-`, and sets of signs, are classes
    return frozenset(found | _negative_for_nothing(classes, others, listed_labels))


def _negative_for_nothing(
    classes: Iterable[str], others: Iterable[str], listed_labels: Sequence[str] | None
) -> set[str]:
    """-1 beside words, or beside 0, 1, 2, as `datasets` marks hidden labels; with 0 and 1 it may be a third class."""
    negative = {name for name in classes if name in ("-1", "-1.0", _IGNORED)}
    rest = {name for name in others if name not in negative}
    if not negative or not rest:
        return set()
    if listed_labels is not None:
        return negative
    numbers = {int(name) for name in rest if _WHOLE.fullmatch(name)}
    if not numbers:
        return negative
    is_counted = len(numbers) == len(rest) and numbers == set(range(len(numbers)))
    return negative if is_counted and len(numbers) > 2 else negative & {_IGNORED}


def sorted_names(distinct: list[str]) -> tuple[str, ...]:
    """Return names in the order of their classes: whole numbers by size, others alphabetically."""
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def check_class_names(names: Mapping[str, pa.ChunkedArray], where: Mapping[str, str], column: str) -> tuple[str, ...]:
    """What is to be said of class names that nobody listed.

    Args:
        names: of the rows of each split, `train` among them.
        where: how messages name each split.
        column: of the labels.

    Raises:
        DataError: they are values, ids or several spellings of one; with how to have them all the same.
    """
    train = name_counts(names["train"])
    place = f"{where['train']}: column {column!r}"
    _refuse_values(train, place)
    _refuse_ids(train, place)
    refuse_twins(names, where, column)
    remarks = _remark_on_none(train) + _remark_on_numbers(train)
    remarks += _remark_on_few_rows(train) + _remark_on_several(train)
    return tuple(f"{place}: {remark}" for remark in remarks)


def _refuse_values(counts: Counts, place: str) -> None:
    names = [name for name in counts if _folded(name) not in MAYBE_MISSING]
    parts = [name for name in names if not _WHOLE.fullmatch(name)]
    if not parts or not all(_NUMBER.fullmatch(name.rstrip(" %")) for name in names):
        return
    raise DataError(
        f"{place} holds values such as {listed(sorted(parts)[:3])}, {len(names):,} different ones, and each would be a "
        f"class; set task.problem to regression, or {_KEEP}"
    )


def _refuse_ids(counts: Counts, place: str) -> None:
    rows = sum(counts.values())
    if len(counts) >= _FEW_LABELS and 2 * len(counts) > rows:
        raise DataError(
            f"{place} has {len(counts):,} different labels in {rows:,} rows, such as {listed(sorted(counts)[:3])}; "
            f"name the column of the classes in task.label, or {_KEEP}"
        )


def twins_among(counts: Counts) -> tuple[str, str] | None:
    """Names that are one but for case, blanks, the form of a letter, or how a number is written.

    Args:
        counts: rows of each name.

    Returns:
        The rarest of the first such names, and what is to be said of them; None where there are none.
    """
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(spelling(name), []).append(name)
    twins = next((names for names in alike.values() if len(names) > 1), None)
    if twins is None:
        return None
    twins.sort(key=lambda name: -counts[name])
    shown = [f"{_told_apart(name)} ({counts[name]:,})" for name in twins]
    return twins[-1], (
        f"the labels {', '.join(shown[:5])} differ by case, blanks or the form of their signs alone; write them the "
        f"same, or {_KEEP} to keep them apart"
    )


def refuse_twins(
    names: Mapping[str, pa.ChunkedArray],
    where: Mapping[str, str],
    column: str,
    row_of: Callable[[str, int], int] = lambda _split, place: place + 1,
) -> None:
    """Refuse names that are one but for their spelling.

    Args:
        names: of the rows of each split, or of what their lists hold.
        where: how messages name each split.
        column: of the labels.
        row_of: the row of a place in a split's names, counted from 1.

    Raises:
        DataError: with the names, how often each stands there, and the first row of the rarest.
    """
    together = Counter[str]()
    for own in names.values():
        together.update(name_counts(own))
    if (twins := twins_among(together)) is None:
        return
    rarest, said = twins
    for split, own in names.items():
        if (place := pc.index(own, rarest).as_py()) >= 0:
            raise DataError(f"{where[split]}: row {row_of(split, place)}: column {column!r}: {said}")


def refuse_twins_in_lists(lists: Mapping[str, Lists], where: Mapping[str, str], column: str) -> None:
    """`refuse_twins` of what the lists of a column hold."""
    flat = {split: own.flat for split, own in lists.items()}
    refuse_twins(flat, where, column, lambda split, place: lists[split].row_of(place))


def check_set_names(lists: Mapping[str, Lists], where: Mapping[str, str], column: str) -> tuple[str, ...]:
    """What is to be said of the names in sets of labels that nobody listed.

    Raises:
        DataError: some are several spellings of one.
    """
    refuse_twins_in_lists(lists, where, column)
    counts = name_counts(lists["train"].flat)
    return tuple(
        f"{where['train']}: column {column!r}: label {printable(name, 60)!r} is read as a label of its own "
        f"({number:,} rows); leave it out where it means that there is none, or {_KEEP}"
        for name, number in counts.items()
        if _folded(name) in MISSING_LABELS | MAYBE_MISSING
    )


def _told_apart(name: str) -> str:
    # NFC and NFD, or a blank and a no-break space, look the same on a terminal.
    return repr(printable(name, 60)) if name.isascii() else ascii(name[:60])


def spelling(name: str) -> str:
    """What is left of a name without case, blanks, forms of letters and ways to write a number."""
    folded = _folded(name)
    if _NUMBER.fullmatch(folded):
        return repr(float(folded.replace(",", ".")))
    return folded


def _folded(name: str) -> str:
    """A name in small letters, without control signs and with single blanks; signs of one meaning are one."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
    if not name.isprintable():
        kept = (sign for sign in name if sign.isspace() or unicodedata.category(sign) not in _UNSEEN)
        name = "".join(kept)
    name = " ".join(name.casefold().replace("\u2212", "-").split())
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spelling_hint(found: str, labels: Sequence[str]) -> str:
    """` (did you mean X?)` for the label that is spelled like `found`, or nearly, otherwise nothing."""
    twin = next((label for label in labels if spelling(label) == spelling(found)), None)
    return suggestion(found, labels) if twin is None else f" (did you mean {_told_apart(twin)}?)"


def _remark_on_none(counts: Counts) -> list[str]:
    rows = sum(counts.values())
    remarks = []
    for name, number in counts.items():
        is_rare = name in ("-1", "-1.0") and number < _RARE * rows and "0" in counts
        if is_rare or _folded(name) in MAYBE_MISSING:
            remarks.append(
                f"label {printable(name, 60)!r} in {number:,} of {rows:,} rows is read as a class of its own; drop its "
                f"rows where it means that there is none, or {_KEEP}"
            )
    return remarks


def _remark_on_numbers(counts: Counts) -> list[str]:
    if len(counts) <= _MANY_NUMBERS or not all(_WHOLE.fullmatch(name) for name in counts):
        return []
    return [
        f"{len(counts):,} different numbers are read as classes; set task.problem to regression where they are values, "
        f"or {_KEEP}"
    ]


def _remark_on_few_rows(counts: Counts) -> list[str]:
    rows = sum(counts.values())
    if len(counts) <= _FEW_ROWS or _FEW_ROWS * len(counts) <= rows:
        return []
    return [
        f"{len(counts):,} different labels in {rows:,} rows are read as classes, {rows / len(counts):.1f} rows each; "
        f"name another column in task.label where they are none, or {_KEEP}"
    ]


def _remark_on_several(counts: Counts) -> list[str]:
    """Names that are other names with a sign between: more than one label in a row."""
    for name, number in counts.items():
        parts = [part.strip() for part in re.split(r"[,;|]", name)]
        if len(parts) > 1 and all(part in counts for part in parts):
            return [
                f"label {printable(name, 60)!r} in {number:,} rows is read as a class of its own; set task.problem to "
                "multi_label where it means several"
            ]
    return []
