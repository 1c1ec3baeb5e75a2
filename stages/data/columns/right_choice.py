"""Choice that an answer refers to: by its text, its number, its letter, or its key in the row.

A single answer may have several meanings: `2` beside the choices 8, 2, 24, 120 is the second choice by text and the
third by number from 0. One reading is therefore chosen for the whole column, on all rows of all splits: the one that
yields a choice in every row. If two readings do so and differ in any row, the recipe has to choose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from schemas.core.wording import printable
from stages.data.readers.files import listed

_LETTER = re.compile(
    r"(?:(?:option|choice|answer|选项|答案)\s*:?\s*)?[\[(]?([A-Za-z])[\])]?(?:[.:)、]\s*(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"(\d+)(?:\.0+)?")


@dataclass(frozen=True)
class Question:
    """A question with its choices, and the answer in the data."""

    answer: Any
    choices: list[str]
    where: str
    """Location in messages."""
    keys: Sequence[str] = ()
    """Names of the choices in the row or in the file, such as A, B, C, or those of their columns."""

    @property
    def text(self) -> str:
        """The stripped answer as text; a whole number without a decimal point."""
        if isinstance(self.answer, float) and self.answer.is_integer():
            return str(int(self.answer))
        return "" if self.answer is None else str(self.answer).strip()


@dataclass(frozen=True)
class Reading:
    """One way to read all answers."""

    name: str
    setting: str
    """Value of `task.problem` that selects it."""
    choice_of: Callable[[Question], int | None]
    """Returns the number of the choice, counted from 0, or None if the answer cannot be read this way."""


def _by_text(question: Question) -> int | None:
    stripped = [choice.strip() for choice in question.choices]
    is_choice = isinstance(question.answer, str) and question.text in stripped
    return stripped.index(question.text) if is_choice else None


def _by_key(question: Question) -> int | None:
    keys = [key.strip() for key in question.keys]
    if question.text in keys:
        return keys.index(question.text)
    letter = _LETTER.fullmatch(_normalized(question.text))
    return keys.index(letter[1]) if letter is not None and letter[1] in keys and not letter[2] else None


def _by_letter(question: Question) -> int | None:
    letter = _LETTER.fullmatch(_normalized(question.text)) if isinstance(question.answer, str) else None
    if letter is None or (number := ord(letter[1].upper()) - ord("A")) >= len(question.choices):
        return None
    text = (letter[2] or "").strip()
    return number if not text or text == _normalized(question.choices[number]) else None


def _by_number(question: Question, first: int) -> int | None:
    digits = None if isinstance(question.answer, bool) else _NUMBER.fullmatch(question.text)
    number = -1 if digits is None else int(digits[1][:9]) - first
    return number if 0 <= number < len(question.choices) else None


def _normalized(text: str) -> str:
    """Return full-width letters and brackets as ASCII."""
    return unicodedata.normalize("NFKC", text).strip()


_TEXT = Reading("by their texts", "answers: text", _by_text)
_KEY = Reading("by the choices' names", "answers: key", _by_key)
_LETTERS = Reading("by their letters", "answers: letter", _by_letter)
_FROM_0 = Reading("by their numbers from 0", "answers: number, first: 0", partial(_by_number, first=0))
_FROM_1 = Reading("by their numbers from 1", "answers: number, first: 1", partial(_by_number, first=1))
_NUMBERS = {0: (_FROM_0,), 1: (_FROM_1,), None: (_FROM_0, _FROM_1)}
_Choices = dict[Reading, list[int | None]]
"""Choice of every question by each reading."""


def right_choices(
    problem: MultipleChoice, questions: Sequence[Question], *, are_keys: bool
) -> tuple[list[int], tuple[str, ...]]:
    """Return the number of each question's right choice, counted from 0, and remarks on other readings.

    Args:
        problem: may say how answers are read.
        questions: those of all splits.
        are_keys: the keys are part of the rows.

    Raises:
        DataError: an answer is none of its choices, or two readings yield different choices.
    """
    for readings in _readings(problem, are_keys=are_keys):
        choices = {reading: [*map(reading.choice_of, questions)] for reading in readings}
        complete = [reading for reading in readings if None not in choices[reading]]
        if complete == [_FROM_0, _FROM_1]:
            raise DataError(
                f"{questions[0].where} is {printable(questions[0].text, 40)}, and no answer of the column is 0 or the "
                "number of choices, so that they may be counted from 0 or from 1; set first: 0 or first: 1 in "
                "task.problem"
            )
        if _FROM_0 in complete and _FROM_1 in complete:
            complete.remove(_FROM_1)  # the third reading agrees with counting from 0, or is refused
        if complete:
            for other in complete[1:]:
                _refuse_difference(complete[0], other, choices, questions)
            numbers = [number for number in choices[complete[0]] if number is not None]
            return numbers, _remarks(complete[0], problem, choices, numbers)
    raise _unreadable(problem, questions, are_keys=are_keys)


def _readings(problem: MultipleChoice, *, are_keys: bool) -> list[tuple[Reading, ...]]:
    """Return groups of readings, tried one group after another."""
    numbers = _NUMBERS[problem.first]
    selected = {"text": (_TEXT,), "letter": (_LETTERS,), "key": (_KEY,), "number": numbers}.get(problem.answers)
    if selected is not None:
        return [selected]
    together = (_TEXT, _KEY, *numbers, _LETTERS)
    return [(_KEY,), together] if are_keys else [together]


def _refuse_difference(reading: Reading, other: Reading, choices: _Choices, questions: Sequence[Question]) -> None:
    for question, *pair in zip(questions, choices[reading], choices[other], strict=True):
        if pair[0] != pair[1]:
            one, two = (printable(question.choices[number], 40) for number in pair if number is not None)
            raise DataError(
                f"{question.where} is {printable(question.text, 40)}, which means {one!r} and {two!r}: answers can be "
                f"read {reading.name} and {other.name}; set {reading.setting} or {other.setting} in task.problem"
            )


def _remarks(chosen: Reading, problem: MultipleChoice, choices: _Choices, numbers: list[int]) -> tuple[str, ...]:
    differences = {
        other: sum(two is not None and one != two for one, two in zip(numbers, choices[other], strict=True))
        for other in choices
        if problem.answers == "auto" and other is not _FROM_1 and {chosen, other} != {_FROM_0, _FROM_1}
    }
    remarks = [
        f"task.label: answers are read {chosen.name}; {rows:,} of {len(numbers):,} mean other choices {other.name}; "
        f"set {other.setting} in task.problem to read them so"
        for other, rows in differences.items()
        if rows
    ]
    if chosen is _FROM_1 and problem.first is None:
        remarks.append(
            "task.label: answers are read by their numbers from 1: none is 0, and one is the number of choices"
        )
    return tuple(remarks)


def _unreadable(problem: MultipleChoice, questions: Sequence[Question], *, are_keys: bool) -> DataError:
    """Return an error about the first answer that the reading which fits most rows cannot read."""
    readings = [reading for group in _readings(problem, are_keys=are_keys) for reading in group]
    missed = {
        reading: [question for question in questions if reading.choice_of(question) is None] for reading in readings
    }
    best = min(readings, key=lambda reading: len(missed[reading]))
    question = missed[best][0]
    shown = printable(question.text, 60) or ("missing" if question.answer is None else "empty")
    other = next((reading for reading in readings if reading.choice_of(question) is not None), None)
    if other is _FROM_1 and problem.first is None:
        other = None  # every number but 0 can be counted from 1
    if other is not None and len(missed[best]) < len(questions):
        return DataError(
            f"{question.where} is {shown}, which can only be read {other.name}, but most answers only {best.name}; "
            "give all answers in the same way"
        )
    first = "" if problem.first is None else f", first: {problem.first}"
    is_set = problem.answers != "auto" or problem.first is not None
    setting = f" with answers: {problem.answers}{first} in task.problem" if is_set else ""
    return DataError(
        f"{question.where} is {shown}, none of the row's {len(question.choices)} choices ({listed(question.choices)})"
        f"{setting}; give the right one's text, its number from 0 or its letter from A (test splits often hide it; use "
        "another split)"
    )
