"""Rows to predict: texts of a command line, lines of a stream, or rows of a file, in the form of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice, QuestionAnswering, TokenClassification
from schemas.core.wording import printable, suggestion
from schemas.results.export import TaskForm

_TEXTS, _PAIRS = ("text_a", "text", "sentence"), ("text_b", "text_pair")
_OTHER_TEXTS: dict[type[Any], tuple[str, ...]] = {
    TokenClassification: ("words", "tokens"),
    QuestionAnswering: ("question",),
    MultipleChoice: ("passage", "context"),
}
_OTHER_PAIRS: dict[type[Any], tuple[str, ...]] = {QuestionAnswering: ("context",), MultipleChoice: ("question",)}
_CHOICES = "choices"


@dataclass(frozen=True)
class Row:
    """A row to predict."""

    number: int
    """Number in the input, from 1."""
    text: str | None
    """The text, a pair's first, the question, the passage, or the words joined by spaces; None if it is missing."""
    pair: str | None = None
    """A pair's second text, the context, or the question about a passage."""
    words: tuple[str, ...] | None = None
    """Words that tags are asked for; None to find the words of the text."""
    choices: tuple[str, ...] = ()
    """The choices."""
    kept: dict[str, Any] = field(default_factory=dict)
    """Columns that are copied to the output."""

    def lacks(self, form: TaskForm) -> bool:
        """Return True where the row has no text, so that it has no answer."""
        is_choice = isinstance(form.problem, MultipleChoice)
        if is_choice and (len(self.choices) < 2 or not all(choice.strip() for choice in self.choices)):
            return True
        texts = [self.text, self.pair] if form.has_pair else [self.text]
        return not all(text and text.strip() for text in texts)


@dataclass(frozen=True)
class Columns:
    """Columns of the rows of an input; a dot leads into an object."""

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()
    """A column of lists, or a column for each choice."""
    kept: tuple[str, ...] = ()
    may_hold_words: bool = False
    """True where lists are words that are tagged; otherwise they are texts to join."""

    def row(self, values: Mapping[str, Any], number: int, where: str) -> Row:
        """Return a row.

        Args:
            values: by column.
            number: of the row, from 1.
            where: location of the row in messages.

        Raises:
            DataError: a value is no text.
        """
        value = _value(values, self.text)
        words = _words(value) if self.may_hold_words else None
        return Row(
            number=number,
            text=_text(value, f"{where}: column {self.text!r}") if words is None else " ".join(words),
            pair=None if self.pair is None else _text(_value(values, self.pair), f"{where}: column {self.pair!r}"),
            words=words,
            choices=self._choices(values, where),
            kept={name: _value(values, name) for name in self.kept},
        )

    def _choices(self, values: Mapping[str, Any], where: str) -> tuple[str, ...]:
        read = [_value(values, name) for name in self.choices]
        if len(read) != 1:
            named = zip(self.choices, read, strict=True)
            return tuple(_text(value, f"{where}: column {name!r}") or "" for name, value in named)
        at, value = f"{where}: column {self.choices[0]!r}", read[0]
        if isinstance(value, str):
            value = _printed_list(value, at)
        if isinstance(value, dict):  # ARC: {"text": […], "label": […]}
            value = value.get("text")
        if isinstance(value, list):
            value = [item.get("text") if isinstance(item, dict) else item for item in value]
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(f'{at} is {_kind(value)}; write a list of texts, such as ["one", "two"]')
        return tuple(value)


def choose_columns(
    form: TaskForm, names: Sequence[str], where: str, *, given: Sequence[str] = (), kept: Sequence[str] = ()
) -> Columns:
    """Return the columns to read: those that are given, else the task's, else the usual ones.

    Args:
        form: the task's.
        names: columns of the input.
        where: location of the input in messages.
        given: `--text-columns`: the text, and where the task has it the second text.
        kept: `--keep`.

    Raises:
        DataError: a column does not exist, or a text cannot be found.
    """
    for name in (*given, *kept):
        if not _has(names, name):
            raise DataError(
                f"{where}: there is no column {name!r}{suggestion(name, names)}; the columns are {_listed(names)}"
            )
    most = 1 + (form.has_pair is not False)
    if len(given) > most or (given and len(given) == 1 and form.has_pair):
        needed = "two columns" if form.has_pair else "one column"
        raise DataError(f"--text-columns {','.join(given)}: a row has {needed_texts(form)}; name {needed}")
    kind = type(form.problem)
    text = given[0] if given else _first(names, (form.text, *_OTHER_TEXTS.get(kind, ()), *_TEXTS))
    pair = given[1] if len(given) == 2 else None
    if not given and form.has_pair is not False:
        pair = _first(names, (form.pair or "", *_OTHER_PAIRS.get(kind, ()), *_PAIRS))
    if text is None or (pair is None and form.has_pair) or text == pair:
        raise DataError(
            f"{where}: a row of this task has {needed_texts(form)}, and the columns are {_listed(names)}: name those "
            f"to read with --text-columns {'TEXT,SECOND' if form.has_pair else 'TEXT'}"
        )
    is_tagged = isinstance(form.problem, TokenClassification)
    return Columns(text, pair, _choice_columns(form, names, where), tuple(kept), may_hold_words=is_tagged)


def _choice_columns(form: TaskForm, names: Sequence[str], where: str) -> tuple[str, ...]:
    if not isinstance(form.problem, MultipleChoice):
        return ()
    choices = form.problem.columns
    if not all(_has(names, name) for name in choices):
        choices = (_CHOICES,)
    if not _has(names, choices[0]):
        raise DataError(
            f"{where}: there is no column of choices ({', '.join(form.problem.columns)}); the columns are "
            f"{_listed(names)}; rename it"
        )
    return choices


def needed_texts(form: TaskForm) -> str:
    """Describe the texts of a row."""
    match form.problem:
        case QuestionAnswering():
            return "a question and its context"
        case MultipleChoice():
            return "a passage, a question and choices" if form.has_pair else "a passage and choices"
        case TokenClassification():
            return "a text or a list of words"
        case _:
            return "a pair of texts" if form.has_pair else "one text"


def _has(names: Sequence[str], name: str) -> bool:
    return name in names or ("." in name and name.partition(".")[0] in names)


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first wanted column that exists, whatever its case."""
    plain = {name.strip().casefold(): name for name in reversed(names)}
    for name in wanted:
        if name and _has(names, name):
            return name
        if name.casefold() in plain:
            return plain[name.casefold()]
    return None


def _value(values: Mapping[str, Any], name: str) -> Any:
    """Return a column's value, None if it is missing; a dot leads into an object."""
    if name in values or "." not in name:
        return values.get(name)
    outer, _, inner = name.partition(".")
    within = values.get(outer)
    return _value(within, inner) if isinstance(within, dict) else None


def _text(value: Any, at: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    raise DataError(f"{at} is {_kind(value)}, not text; write text, or name its column with --text-columns")


def _words(value: Any) -> tuple[str, ...] | None:
    """Return a list of words, also one that a table holds as text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            value = _printed_list(value, "")
        except DataError:  # a text in brackets
            return None
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return tuple(value) if is_list else None


def _printed_list(text: str, at: str) -> Any:
    """Return a list that a table holds as text, as tasks read it."""
    from stages.data.columns.written_lists import NotAList, lists_by_name, written_list

    try:
        by_name = lists_by_name(text)
        return by_name.get("text") if by_name is not None else written_list(text)
    except NotAList as error:
        raise DataError(f"{at}: {printable(text, 60)} {error}; write a list as JSON does") from None


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "a truth value", int: f"the number {value}"}
    return kinds.get(type(value), f"{printable(str(value), 60)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name, 60) for name in names[:12]) + (" …" if len(names) > 12 else "") or "(none)"
