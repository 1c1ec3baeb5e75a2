"""Guesses which columns of a table are the text, the second text and the label, and what kind of task they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from schemas.core.errors import ConfigError
from stages.data.files.read_request import plain_name
from stages.data.readers.files import check_column, listed
from stages.text.scripts import is_number

_TEXT_NAMES = (
    *("text_a", "text", "sentence", "review", "content", "body", "comment", "message", "question", "utterance"),
    *("tokens", "words", "query", "premise", "sentence1", "document", "article", "abstract", "tweet", "title"),
)
_PAIR_NAMES = (
    *(("text_a", "text_b"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("question1", "question2")),
    *(("premise", "hypothesis"), ("question", "context"), ("question", "sentence"), ("query", "passage")),
    *(("query", "document"), ("text1", "text2"), ("anchor", "positive"), ("question", "answer")),
)
_LABEL_NAMES = (
    *("label", "labels", "class", "category", "sentiment", "target", "tags", "ner_tags", "answers", "y", "intent"),
    *("topic", "polarity", "stars", "rating", "score", "similarity", "gold", "emotion", "tag"),
)
_ROWS = 5000
_MOST_CLASSES = 100
_MOST_WHOLE_CLASSES = 20
_LONGEST_LABEL = 60
_SHORTEST_TEXT = 12


@dataclass(frozen=True)
class Columns:
    """The columns of a task, and its kind."""

    text: str
    label: str | tuple[str, ...]
    """One column, or the columns of several labels."""
    problem: str
    text_pair: str | None = None


def find_columns(
    rows: Dataset, where: str, *, text: str | None = None, text_pair: str | None = None, label: str | None = None
) -> Columns:
    """Return the columns of a task; named ones are checked, the others are guessed from names and values.

    Args:
        rows: the rows as they were read.
        where: the file, for messages.
        text: the column of the text, if it is known.
        text_pair: the column of the second text; "" for none.
        label: the column of the label, or several separated by commas.

    Raises:
        ConfigError: a column has to be named.
        DataError: there is no such column.
    """
    step = max(1, len(rows) // _ROWS)
    table = rows.select(range(0, len(rows), step)).to_dict()
    labels = tuple(part.strip() for part in label.split(",")) if label else ()
    for name in (*labels, *filter(None, (text, text_pair))):
        check_column(rows.column_names, name, where)
    if not labels:
        labels = _guessed_labels(table, text, where)
    if text is None:
        text, pair = _guessed_text(table, labels, where)
        text_pair = pair if text_pair is None else text_pair
    problem = _problem(table, text, labels)
    if problem == "question_answering" and text_pair is None:
        text_pair = _by_name(table, ("context", "passage", "document"))
    return Columns(text, labels[0] if len(labels) == 1 else labels, problem, text_pair or None)


def _by_name(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    plain = {plain_name(name): name for name in names}
    return next((plain[name] for name in wanted if name in plain), None)


def _guessed_labels(table: dict[str, list[Any]], text: str | None, where: str) -> tuple[str, ...]:
    others = [name for name in table if name != text]
    if (named := _by_name(others, _LABEL_NAMES)) is not None:
        return (named,)
    likely = [name for name in others if _has_classes(table[name])]
    flags = [name for name in likely if {str(value) for value in table[name] if value is not None} <= {"0", "1"}]
    if len(flags) > 1:
        return tuple(flags)
    if len(likely) == 1:
        return (likely[0],)
    hint = f"; likely: {', '.join(likely)}" if likely else ""
    raise ConfigError(
        f"{where}: which column is the label? The columns are {listed(list(table))}{hint}; name it with --label COLUMN"
    )


def _has_classes(values: list[Any]) -> bool:
    """Return whether a column has few, short, repeated values."""
    plain = [str(value) for value in values if isinstance(value, str | int | bool) and str(value).strip()]
    different = set(plain)
    most = min(_MOST_CLASSES, max(2, len(plain) // 4))
    return 2 <= len(different) <= most and all(len(value) <= _LONGEST_LABEL for value in different)


def _guessed_text(table: dict[str, list[Any]], labels: tuple[str, ...], where: str) -> tuple[str, str | None]:
    others = [name for name in table if name not in labels]
    plain = {plain_name(name): name for name in others}
    for first, second in _PAIR_NAMES:
        if first in plain and second in plain:
            return plain[first], plain[second]
    if (named := _by_name(others, _TEXT_NAMES)) is not None:
        return named, None
    lengths = {name: _mean_length(table[name]) for name in others}
    longest = max(others, key=lambda name: lengths[name], default=None)
    if longest is None or lengths[longest] < _SHORTEST_TEXT:
        raise ConfigError(
            f"{where}: which column is the text? The columns are {listed(list(table))}; name it with --text COLUMN"
        )
    return longest, None


def _mean_length(values: list[Any]) -> float:
    texts = [value for value in values if isinstance(value, str) and not is_number(value)]
    return sum(map(len, texts)) / len(values) if values else 0.0


def _problem(table: dict[str, list[Any]], text: str, labels: tuple[str, ...]) -> str:
    if len(labels) > 1:
        return "multi_label"
    values = [value for value in table[labels[0]] if value is not None and str(value).strip()]
    first = values[0] if values else ""
    if isinstance(first, dict):
        return "question_answering"
    if isinstance(first, list):
        return "token_classification" if table[text] and isinstance(table[text][0], list) else "multi_label"
    if isinstance(first, str) and first.lstrip().startswith("["):
        return "multi_label"
    numbers = [float(value) for value in values if is_number(str(value))]
    if len(numbers) < len(values):
        return "classification"
    is_whole = all(number.is_integer() for number in numbers)
    return "classification" if is_whole and len(set(numbers)) <= _MOST_WHOLE_CLASSES else "regression"
