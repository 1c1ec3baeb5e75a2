"""Rows of words and their tags: as many of these as of those, and entities in BIO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import datasets
import numpy as np
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.label_names import named_by_number, refuse_twins_in_lists
from stages.data.columns.list_columns import Lists
from stages.data.columns.tag_lists import lists_of_columns
from stages.data.columns.tag_schemes import OUTSIDE, NoScheme, Read, Scheme, as_bio, scheme_of
from stages.data.columns.text_columns import Task

_FEW_ROWS = 20


@dataclass(frozen=True)
class TaggedWords:
    """Words and their tags, of every split."""

    words: dict[str, Lists]
    tags: dict[str, Lists]
    labels: tuple[str, ...]
    remarks: tuple[str, ...]


def tagged_words(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> TaggedWords:
    """Words and tags as the rows have them, numbers by their names, and entities of other schemes in BIO.

    Raises:
        DataError: a row has not a tag for each word, or the tags are of no scheme; with place and remedy.
    """
    column = task.label_column
    lists, remarks = lists_of_columns(raw, (task.text, column), where)
    words, tags = lists[task.text], lists[column]
    for split in raw:
        _refuse_single_words(words[split], f"{where[split]}: column {task.text!r}")
        _check_lengths(task, words[split], tags[split], where[split])
    declared = _declared(raw["train"], column)
    if task.labels is not None and declared is None:
        flat, said = named_by_number(
            {split: own.flat for split, own in tags.items()}, task.labels, f"task: column {column!r}"
        )
        tags = {split: Lists(flat[split], own.lengths) for split, own in tags.items()}
        remarks += said
    labels = task.labels or declared
    if labels is None:
        refuse_twins_in_lists(tags, where, column)
    if task.main_metric != "entity_f1":
        return TaggedWords(words, tags, labels or _train_labels(tags), remarks)
    tags, labels, said = _in_bio(tags, labels, where, f"column {column!r}")
    return TaggedWords(words, tags, labels, remarks + said)


def _declared(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Names that a data set of the hub declares for the items of a list."""
    inner = getattr(rows.features[column], "feature", None)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _refuse_single_words(words: Lists, where: str) -> None:
    """Refuse a table of a word a row, whose sentences nobody could tell."""
    if len(words.lengths) >= _FEW_ROWS and words.lengths.max() == 1:
        raise DataError(
            f"{where} holds one word in every row, but a row is a sentence; list the words of each, or give a word a "
            "line with a blank line after each sentence (.conll)"
        )


def _check_lengths(task: Task, words: Lists, tags: Lists, where: str) -> None:
    unequal = np.flatnonzero(words.lengths != tags.lengths)
    if len(unequal):
        row = int(unequal[0])
        raise DataError(
            f"{where}: row {row + 1}: {task.text!r} has {words.lengths[row]} words but {task.label_column!r} "
            f"{tags.lengths[row]} tags; give each word one tag"
        )


def _train_labels(tags: Mapping[str, Lists]) -> tuple[str, ...]:
    return sorted_tags(tags["train"].flat.unique().to_pylist())


def sorted_tags(distinct: list[str]) -> tuple[str, ...]:
    """Tags in the order of their classes: `O`, then each type's B- before its I-."""

    def order(tag: str) -> tuple[bool, str, str]:
        prefix, _, kind = tag.partition("-")
        return (tag != OUTSIDE, kind or prefix, prefix)

    return tuple(sorted(distinct, key=order))


def _in_bio(
    tags: Mapping[str, Lists], labels: tuple[str, ...] | None, where: Mapping[str, str], column: str
) -> tuple[dict[str, Lists], tuple[str, ...], tuple[str, ...]]:
    """The tags and their names in BIO, and what is to be said of it."""
    distinct = {tag for own in tags.values() for tag in own.flat.unique().to_pylist()}
    scheme = _scheme(distinct, labels, f"{where['train']}: {column}")
    read = {split: as_bio(scheme, own) for split, own in tags.items()}
    remarks = _remarks(scheme, read, where, column)
    if scheme.is_bio and not remarks:
        return dict(tags), labels or _train_labels(tags), ()
    found = {split: Lists(read[split].tags, own.lengths) for split, own in tags.items()}
    if labels is not None:
        named = _scheme(set(labels), None, "task.labels")
        return found, named.bio_labels(labels), remarks
    own = scheme.bio_labels(sorted(tags["train"].flat.unique().to_pylist()))
    kinds = {tag[2:] for tag in own if tag != OUTSIDE}
    return (found, sorted_tags([OUTSIDE, *(f"{part}-{kind}" for kind in kinds for part in "BI")]), remarks)


def _scheme(tags: set[str], labels: tuple[str, ...] | None, where: str) -> Scheme:
    """The scheme of the tags, told with the help of those that the task lists where they alone leave it open."""
    try:
        return scheme_of(tags)
    except NoScheme as error:
        try:
            return scheme_of(tags | set(labels)) if labels is not None else _raise(error)
        except NoScheme:
            raise DataError(
                f"{where}: the tags {printable(str(error), 300)}; entity_f1 needs entities: write the tags as B-TYPE, "
                "I-TYPE and O, or set task.metric to token_accuracy"
            ) from None


def _raise(error: NoScheme) -> Scheme:
    raise error


def _remarks(scheme: Scheme, read: Mapping[str, Read], where: Mapping[str, str], column: str) -> tuple[str, ...]:
    name = scheme.name
    by_inside = sum(own.begun_by_inside for own in read.values())
    if name == "BIO" and by_inside and not sum(own.begun_by_begin for own in read.values()):
        name = "IOB1"
    remarks = []
    if not scheme.is_bio or name == "IOB1":
        remarks.append(
            f"{where['train']}: {column}: {_how_read(scheme, name)}; set task.metric to token_accuracy to keep them "
            "as they are"
        )
    if name != "IOB1":
        remarks += [
            f"{where[split]}: {column}: {own.broken:,} of {own.entities:,} entities do not begin or end as {name} has "
            f"it, the first in row {own.first_broken:,}; they are read as conlleval reads them"
            for split, own in read.items()
            if own.first_broken is not None
        ]
    return tuple(remarks)


def _how_read(scheme: Scheme, name: str) -> str:
    """How tags that are not written in BIO are read, with an example."""
    if name == "IOB1":
        return "entities that begin with I- (IOB1) are read with B- (BIO)"
    changed = {
        tag: {"B": "B-", "S": "B-", OUTSIDE: OUTSIDE}.get(part, "I-") + kind
        for tag, (part, kind) in scheme.parts.items()
    }
    # The letters that end an entity tell one scheme from others.
    tag = max(
        (tag for tag in changed if tag != changed[tag] or name == "IO"),
        key=lambda tag: (scheme.parts[tag][0] in ("E", "S"), scheme.parts[tag][0] != OUTSIDE),
    )
    shown = printable(tag, 40)
    if name == "IO":
        kind = printable(scheme.parts[tag][1], 40)
        return f"tags such as {shown} (IO) do not say where an entity begins: a run of them is one, B-{kind} I-{kind}"
    read = printable(changed[tag], 40)
    return (
        f"tags such as {shown} are read as {read}"
        if name == "BIO"
        else f"tags such as {shown} ({name}) are read as {read} (BIO)"
    )
