"""Which choice an answer means: its text, its number, its letter, or the name that the choice is given in the row.

A single answer often has several meanings: `2` beside the choices 8, 2, 24, 120 is the second by its text and the third
by its number from 0. One reading is therefore chosen for the whole column, on all rows of all splits: the one that
gives a choice in every row. Where two of them do and differ in any row, the recipe has to say which is meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """A question with its choices, and the answer that the data gives."""

    answer: Any
    choices: list[str]
    place: str
    """How messages name it."""
    keys: Sequence[str] = ()
    """The choices' names in the row or in the file, such as A, B, C, or those of their columns."""

    @property
    def text(self) -> str:
        """The answer as text, without blanks around it; a whole number without a decimal point."""
        if isinstance(self.answer, float) and self.answer.is_integer():
            return str(int(self.answer))
        return "" if self.answer is None else str(self.answer).strip()


@dataclass(frozen=True)
class Reading:
    """One way to read all answers."""

    name: str
    """How messages name it."""
    setting: str
    """What chooses it in `task.problem`."""
    choice_of: Callable[[Question], int | None]
    """The number of the choice, counted from 0; None where the answer cannot be read so."""


def _by_text(asked: Question) -> int | None:
    if not isinstance(asked.answer, str):
        return None
    stripped = [choice.strip() for choice in asked.choices]
    return stripped.index(asked.text) if asked.text in stripped else None


def _by_key(asked: Question) -> int | None:
    keys = [key.strip() for key in asked.keys]
    if asked.text in keys:
        return keys.index(asked.text)
    bare = _LETTER.fullmatch(_plain(asked.text))
    return keys.index(bare[1]) if bare is not None and bare[1] in keys and not bare[2] else None


def _by_letter(asked: Question) -> int | None:
    if not isinstance(asked.answer, str):
        return None
    found = _LETTER.fullmatch(_plain(asked.text))
    if found is None:
        return None
    number = ord(found[1].upper()) - ord("A")
    if number >= len(asked.choices):
        return None
    rest = (found[2] or "").strip()
    return number if not rest or rest == _plain(asked.choices[number]) else None


def _by_number(first: int) -> Callable[[Question], int | None]:
    def choice_of(asked: Question) -> int | None:
        found = None if isinstance(asked.answer, bool) else _NUMBER.fullmatch(asked.text)
        number = -1 if found is None else int(found[1][:9]) - first
        return number if 0 <= number < len(asked.choices) else None

    return choice_of


def _plain(text: str) -> str:
    """Full-width letters and brackets as their plain forms."""
    return unicodedata.normalize("NFKC", text).strip()


_TEXT = Reading("by their texts", "answers: text", _by_text)
_KEY = Reading("by the choices' names", "answers: key", _by_key)
_LETTERS = Reading("by their letters", "answers: letter", _by_letter)
_FROM_0 = Reading("by their numbers from 0", "answers: number, first: 0", _by_number(0))
_FROM_1 = Reading("by their numbers from 1", "answers: number, first: 1", _by_number(1))
_NUMBERS = {0: (_FROM_0,), 1: (_FROM_1,), None: (_FROM_0, _FROM_1)}


def right_choices(
    problem: MultipleChoice, questions: Sequence[Question], *, are_keys: bool
) -> tuple[list[int], tuple[str, ...]]:
    """The number of each question's right choice, counted from 0; and a remark where it could be another.

    Args:
        problem: may say how answers are read.
        questions: those of all splits.
        are_keys: whether `keys` are what the data itself calls the choices.

    Raises:
        DataError: an answer is none of its choices, or two readings give different ones; with its place.
    """
    for readings in _readings(problem, are_keys=are_keys):
        found = {each: [each.choice_of(asked) for asked in questions] for each in readings}
        whole = [each for each in readings if None not in found[each]]
        if whole:
            if whole == [_FROM_0, _FROM_1]:
                raise _first_unknown(questions[0])
            if _FROM_0 in whole and _FROM_1 in whole:
                whole.remove(_FROM_1)  # another reading says the same as counting from 0, or is refused
            _refuse_other_meanings(whole, found, questions)
            chosen = whole[0]
            numbers = [number for number in found[chosen] if number is not None]
            return numbers, _remarks(chosen, problem, found, numbers)
    raise _not_read(problem, questions, are_keys=are_keys)


def _readings(problem: MultipleChoice, *, are_keys: bool) -> list[tuple[Reading, ...]]:
    """Readings that are tried together, group after group."""
    numbers = _NUMBERS[problem.first]
    match problem.answers:
        case "text":
            return [(_TEXT,)]
        case "letter":
            return [(_LETTERS,)]
        case "key":
            return [(_KEY,)]
        case "number":
            return [numbers]
    together = (_TEXT, _KEY, *numbers, _LETTERS)
    return [(_KEY,), together] if are_keys else [together]


def _first_unknown(asked: Question) -> DataError:
    return DataError(
        f"{asked.place} is {printable(asked.text, 40)}, and no answer of the column is 0 or the number of choices, so "
        "that they may be counted from 0 or from 1; set first: 0 or first: 1 in task.problem"
    )


_Found = dict[Reading, list[int | None]]


def _refuse_other_meanings(whole: Sequence[Reading], found: _Found, questions: Sequence[Question]) -> None:
    for other in whole[1:]:
        for asked, one, two in zip(questions, found[whole[0]], found[other], strict=True):
            if one != two:
                assert one is not None
                assert two is not None
                shown = [printable(asked.choices[number], 40) for number in (one, two)]
                raise DataError(
                    f"{asked.place} is {printable(asked.text, 40)}, which means {shown[0]!r} and {shown[1]!r}: answers "
                    f"can be read {whole[0].name} and {other.name}; set {whole[0].setting} or "
                    f"{other.setting} in task.problem"
                )


def _remarks(chosen: Reading, problem: MultipleChoice, found: _Found, numbers: list[int]) -> tuple[str, ...]:
    differ = {
        other: sum(two is not None and one != two for one, two in zip(numbers, found[other], strict=True))
        for other in found
        if problem.answers == "auto" and other is not _FROM_1 and {chosen, other} != {_FROM_0, _FROM_1}
    }
    remarks = [
        f"task.label: answers are read {chosen.name}; {rows:,} of {len(numbers):,} mean other choices "
        f"{other.name}; set {other.setting} in task.problem for that"
        for other, rows in differ.items()
        if rows
    ]
    if chosen is _FROM_1 and problem.first is None:
        remarks.append(
            "task.label: answers are read by their numbers from 1: none is 0, and one is the number of choices"
        )
    return tuple(remarks)


def _not_read(problem: MultipleChoice, questions: Sequence[Question], *, are_keys: bool) -> DataError:
    """The first answer that the reading which fits most rows cannot read."""
    readings = [each for group in _readings(problem, are_keys=are_keys) for each in group]
    missed = {
        each: [place for place, asked in enumerate(questions) if each.choice_of(asked) is None] for each in readings
    }
    best = min(readings, key=lambda each: len(missed[each]))
    asked = questions[missed[best][0]]
    shown = printable(asked.text, 60) or ("missing" if asked.answer is None else "empty")
    other = next((each for each in readings if each.choice_of(asked) is not None), None)
    if other is _FROM_1 and problem.first is None:
        other = None  # every number but 0 is one from 1
    if other is not None and len(missed[best]) < len(questions):
        return DataError(
            f"{asked.place} is {shown}, which can be read {other.name} alone, but most answers {best.name} alone; give "
            "every row's answer in the same way"
        )
    return DataError(
        f"{asked.place} is {shown}, none of the row's {len(asked.choices)} choices ({listed(asked.choices)})"
        f"{_asked_for(problem)}; give the right one's text, its number from 0 or its letter from A (test splits often "
        "hide it; take another split)"
    )


def _asked_for(problem: MultipleChoice) -> str:
    if problem.answers == "auto" and problem.first is None:
        return ""
    first = "" if problem.first is None else f", first: {problem.first}"
    return f" with answers: {problem.answers}{first} in task.problem"
