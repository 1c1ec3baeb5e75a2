"""Rows of words and their tags, one tag for each word, with entities in BIO.

Files without types hold lists as text: printed, or with blanks between the items.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.columns.class_names import names_by_number
from stages.data.columns.columns import Column, Parsed
from stages.data.columns.label_names import refuse_twins_in_lists
from stages.data.columns.list_columns import Lists, declared_names, distinct_items, lists_of_text
from stages.data.columns.tag_schemes import OUTSIDE, BioTags, NoScheme, Scheme, as_bio, scheme_of
from stages.data.columns.text_columns import Task
from stages.data.columns.written_lists import NotAList, is_written_list, written_list
from stages.data.readers.files import is_text, text_column

_BLANKS = re.compile(r"[ \t\n]+")
_FEW_ROWS = 20


@dataclass(frozen=True)
class TaggedWords:
    """Words and tags of one split."""

    words: Lists
    tags: Lists


def read_tagged_words(task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> Parsed[TaggedWords]:
    """Return the words and tags of every row: numbers as names, and entities of other schemes in BIO.

    Args:
        task: names the columns of words and tags, and may list the tags.
        raw: the splits as read, `train` first.
        where: location of each split in messages.

    Raises:
        DataError: a row does not have one tag for each word, or the tags follow no scheme.
    """
    column = task.label_column
    words, tags, remarks = _word_and_tag_lists(task, raw, where)
    for split in raw:
        _check_lengths(task, words[split], tags[split], where[split])
    declared = declared_names(raw["train"], column)
    if task.labels is not None and not declared:
        flat = {split: lists.flat for split, lists in tags.items()}
        names, remark = names_by_number(flat, task.labels, f"task: column {column!r}")
        tags = {split: Lists(names[split], lists.lengths) for split, lists in tags.items()}
        remarks += remark
    labels = task.labels or declared
    if not labels:
        refuse_twins_in_lists(tags, where, column)
    if task.main_metric == "entity_f1":
        tags, labels, remark = _in_bio(tags, labels, where, f"column {column!r}")
        remarks += remark
    labels = labels or sorted_tags(distinct_items([tags["train"]]))
    return Parsed({split: TaggedWords(words[split], tags[split]) for split in raw}, labels, remarks)


def _word_and_tag_lists(
    task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]
) -> tuple[dict[str, Lists], dict[str, Lists], tuple[str, ...]]:
    """Return the lists of words and of tags of every split, and a remark if they were read from text."""
    names = (task.text, task.label_column)
    are_text = [name in rows.column_names and is_text(rows.features[name]) for rows in raw.values() for name in names]
    if not all(are_text):
        words, tags = (
            {split: lists_of_text(Column(rows, name, where[split]), may_be_empty=True) for split, rows in raw.items()}
            for name in names
        )
        return words, tags, ()
    texts = {
        name: {
            split: text_column(rows, name, where[split], blank_allowed=True).to_pylist() for split, rows in raw.items()
        }
        for name in names
    }
    # A sentence may begin and end with brackets; tags do not.
    are_printed = all(is_written_list(text) for rows in texts[task.label_column].values() for text in rows)
    words, tags = (
        {
            split: Lists.of(
                [
                    _parse_list(text, f"{where[split]}: row {row}: column {name!r}")
                    if are_printed
                    else [part for part in _BLANKS.split(text) if part]
                    for row, text in enumerate(rows, start=1)
                ]
            )
            for split, rows in texts[name].items()
        }
        for name in names
    )
    form = "as printed lists" if are_printed else "with blanks between words and between tags"
    return words, tags, (f"{where['train']}: the text of columns {names[0]!r} and {names[1]!r} is read {form}",)


def _parse_list(text: str, where: str) -> list[str]:
    try:
        items = written_list(text)
    except NotAList as error:
        raise DataError(f"{where}: {printable(text, 60)!r} {error}; write lists as JSON does, or give .jsonl") from None
    if isinstance(items, dict) or not all(items):
        raise DataError(f"{where}: {printable(text, 60)!r} is not a list of texts; fix the row")
    return [item for item in items if item is not None]


def _check_lengths(task: Task, words: Lists, tags: Lists, where: str) -> None:
    """Refuse rows of unequal lengths, and a table of one word per row, which has lost its sentences."""
    if len(words.lengths) >= _FEW_ROWS and words.lengths.max() == 1:
        raise DataError(
            f"{where}: column {task.text!r} holds one word in every row, but a row is a sentence; give each row a list "
            "of words, or write one word per line with a blank line after each sentence (.conll)"
        )
    unequal = np.flatnonzero(words.lengths != tags.lengths)
    if len(unequal):
        row = int(unequal[0])
        raise DataError(
            f"{where}: row {row + 1}: {task.text!r} has {words.lengths[row]} words but {task.label_column!r} has "
            f"{tags.lengths[row]} tags; give each word one tag"
        )


def sorted_tags(distinct: set[str]) -> tuple[str, ...]:
    """Return tags in the order of their classes: `O`, then B- before I- of each type."""

    def order(tag: str) -> tuple[bool, str, str]:
        prefix, _, kind = tag.partition("-")
        return (tag != OUTSIDE, kind or prefix, prefix)

    return tuple(sorted(distinct, key=order))


def _in_bio(
    tags: dict[str, Lists], labels: tuple[str, ...], where: Mapping[str, str], column: str
) -> tuple[dict[str, Lists], tuple[str, ...], tuple[str, ...]]:
    """Return the tags and their names in BIO, and remarks."""
    scheme = _scheme(distinct_items(tags.values()), labels, f"{where['train']}: {column}")
    converted = {split: as_bio(scheme, lists) for split, lists in tags.items()}
    remarks = _remarks(scheme, converted, where, column)
    if scheme.is_bio and not remarks:
        return tags, labels, ()
    bio = {split: Lists(converted[split].tags, lists.lengths) for split, lists in tags.items()}
    if labels:
        return bio, _scheme(set(labels), (), "task.labels").bio_labels(labels), remarks
    names = scheme.bio_labels(sorted(distinct_items([tags["train"]])))
    types = {name[2:] for name in names if name != OUTSIDE}
    return bio, sorted_tags({OUTSIDE, *(f"{part}-{kind}" for kind in types for part in "BI")}), remarks


def _scheme(tags: set[str], labels: tuple[str, ...], where: str) -> Scheme:
    """Return the scheme of the tags; of tags and labels together if the tags alone leave it open."""
    try:
        try:
            return scheme_of(tags)
        except NoScheme as error:
            reason = str(error)
            if not labels:
                raise
            return scheme_of(tags | set(labels))
    except NoScheme:
        raise DataError(
            f"{where}: the tags {printable(reason, 300)}; entity_f1 needs entities: write the tags as B-TYPE, I-TYPE "
            "and O, or set task.metric to token_accuracy"
        ) from None


def _remarks(
    scheme: Scheme, converted: Mapping[str, BioTags], where: Mapping[str, str], column: str
) -> tuple[str, ...]:
    name = scheme.name
    begun_by_inside = sum(tags.begun_by_inside for tags in converted.values())
    if name == "BIO" and begun_by_inside and not sum(tags.begun_by_begin for tags in converted.values()):
        name = "IOB1"
    remarks = []
    if not scheme.is_bio or name == "IOB1":
        remarks.append(
            f"{where['train']}: {column}: {_conversion(scheme, name)}; set task.metric to token_accuracy to keep the "
            "tags unchanged"
        )
    if name != "IOB1":
        remarks += [
            f"{where[split]}: {column}: {tags.broken:,} of {tags.entities:,} entities do not begin or end as {name} "
            f"requires, the first in row {tags.first_broken:,}; they are read as conlleval reads them"
            for split, tags in converted.items()
            if tags.first_broken is not None
        ]
    return tuple(remarks)


def _conversion(scheme: Scheme, name: str) -> str:
    """Describe how tags that are not BIO are read, with an example."""
    if name == "IOB1":
        return "entities that begin with I- (IOB1) are read with B- (BIO)"
    bio = {
        tag: {"B": "B-", "S": "B-", OUTSIDE: OUTSIDE}.get(part, "I-") + kind
        for tag, (part, kind) in scheme.parts.items()
    }
    # Letters that end an entity distinguish the schemes best.
    tag = max(
        (tag for tag in bio if tag != bio[tag] or name == "IO"),
        key=lambda tag: (scheme.parts[tag][0] in ("E", "S"), scheme.parts[tag][0] != OUTSIDE),
    )
    example = printable(tag, 40)
    if name == "IO":
        kind = printable(scheme.parts[tag][1], 40)
        return f"tags such as {example} (IO) do not mark where an entity begins: a run is read as B-{kind} I-{kind}"
    if name == "BIO":
        return f"tags such as {example} are read as {printable(bio[tag], 40)}"
    return f"tags such as {example} ({name}) are read as {printable(bio[tag], 40)} (BIO)"
