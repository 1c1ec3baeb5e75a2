"""Files of words with tags, a word a line: CoNLL's format and its relatives.

A blank line ends a sentence. The first field of a line is the word (the second where the first only counts the words),
the last its tag, unless the recipe or a header names the columns. `-DOCSTART-` lines and comments are no words: a
comment begins with `#` before the first word of a sentence, and has not the fields of a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.read_request import ArrowRows, Reading, renamed
from stages.data.formats.conll_lines import ConllLines

_BETWEEN = {None: "blanks", "\t": "tabs"}
_DOCUMENT = "-DOCSTART-"
_SENTENCES_AT_ONCE = 1000
_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"\d+[-.]\d+")
_MOST_TAGS = 1000


@dataclass
class _Form:
    """What all lines of a file have in common."""

    width: int = 0
    words: int = 0
    """Lines of words."""
    counted: bool = True
    """Whether the first field counts the words of each sentence."""
    last: set[str] = field(default_factory=set)
    """What the last fields hold, in lines that do not begin with a number sign."""


def write_conll_rows(path: Path, reading: Reading, where: str, into: Path) -> list[str]:
    """Write the sentences of a file as an Arrow file that `datasets` opens: a list of words and one of tags each.

    Args:
        path: the file, packed or not.
        reading: names the two columns first, and perhaps all columns of the file.
        where: the field that names it.
        into: the Arrow file; not there afterwards where the file has no sentence.

    Returns:
        What was read in one of several ways.

    Raises:
        DataError: a line is not right; with its number.
    """
    file = _File(path, reading, f"{where}: {path}")
    form = file.look()
    if not form.words:
        raise DataError(f"{file.shown} has no words; give a file that has some")
    word, tag, remark = file.columns(form)
    names = reading.columns[:2]
    kind = datasets.List(datasets.Value("string"))
    with ArrowRows(into, {names[0]: kind, names[1]: kind}) as rows:
        words: list[list[str]] = []
        tags: list[list[str]] = []
        for _, sentence in file.sentences(form, word, tag):
            words.append([fields[0] for fields in sentence])
            tags.append([fields[1] for fields in sentence])
            if len(words) == _SENTENCES_AT_ONCE:
                rows.write([pa.array(lists, pa.list_(pa.string())) for lists in (words, tags)])
                words, tags = [], []
        if words:
            rows.write([pa.array(lists, pa.list_(pa.string())) for lists in (words, tags)])
    return [remark]


def conll_line(path: Path, reading: Reading, where: str, row: int) -> int | None:
    """The line of the first word of a sentence, counted from 1; None where there is no such sentence.

    Raises:
        DataError: a line before it is not right.
    """
    file = _File(path, reading, f"{where}: {path}")
    form = file.look()
    word, tag, _ = file.columns(form)
    found = islice(file.sentences(form, word, tag), row - 1, row)
    return next((line for line, _ in found), None)


class _File:
    def __init__(self, path: Path, reading: Reading, shown: str) -> None:
        self.path, self.reading, self.shown = path, reading, shown
        self.lines = ConllLines(path, reading)

    def look(self) -> _Form:
        """What the lines have in common: read once before any sentence is."""
        form = _Form()
        place = 0
        for _, fields in self.lines:
            if not fields or fields[0] == _DOCUMENT:
                place = 0
                continue
            if fields[0].startswith("#"):
                continue
            place += 1
            form.words += 1
            form.width = form.width or len(fields)
            form.counted = form.counted and self._counts(fields[0], place)
            place -= bool(form.counted and _RANGE.fullmatch(fields[0]))
            if len(form.last) <= _MOST_TAGS:
                form.last.add(fields[-1])
        return form

    @staticmethod
    def _counts(text: str, place: int) -> bool:
        if _RANGE.fullmatch(text):
            return True
        return _NUMBER.fullmatch(text) is not None and int(text) in (place, place - 1)

    def columns(self, form: _Form) -> tuple[int, int, str]:
        """Which fields are the word and the tag, and what to say of it.

        Raises:
            DataError: there are no two such.
        """
        given = self.reading.format.columns or self._named()
        if given is not None:
            missing = [name for name in self.reading.columns[:2] if name not in given]
            if missing:
                raise DataError(
                    f"{self.shown}: format.columns names {', '.join(given)} but not {missing[0]!r}, which the task "
                    "reads; name the column of the words and that of the tags as the task does"
                )
            word, tag = (given.index(name) for name in self.reading.columns[:2])
            return word, tag, f"read as CoNLL: words in field {word + 1}, tags in field {tag + 1}"
        counted = form.counted and form.width > 2
        word, tag = int(counted), form.width - 1
        if tag <= word:
            raise DataError(
                f"{self.shown}: a line has one field; give each word a line with the word and its tag, and a blank "
                "line after each sentence"
            )
        if form.last <= {"_", "-"} or (counted and form.last <= {"_", "SpaceAfter=No"}):
            raise DataError(
                f"{self.shown}: the last of {form.width} fields, where the tag is looked for, holds nothing; name all "
                "fields in order, such as format.columns: "
                f"[{', '.join(self._example(form.width))}]"
            )
        return (
            word,
            tag,
            (
                f"read as CoNLL: words in field {word + 1}, tags in field {tag + 1} of {form.width}"
                + (" (format.columns names others)" if form.width > 2 else "")
            ),
        )

    def _named(self) -> tuple[str, ...] | None:
        """The header, with the names of the two columns that are asked for; None where it has not both."""
        header = self.lines.header or []
        wanted = renamed(header, self.reading.columns[:2])
        names = tuple(wanted.get(name, name) for name in header)
        return names if {*self.reading.columns[:2]} <= {*names} else None

    def _example(self, width: int) -> list[str]:
        text, label = self.reading.columns[:2]
        names = [f"field_{number}" for number in range(1, width + 1)]
        names[1], names[3 if width > 3 else -1] = text, label
        return names

    def sentences(self, form: _Form, word: int, tag: int) -> Iterator[tuple[int, list[tuple[str, str]]]]:
        """Line of the first word, and words and tags, of each sentence.

        Raises:
            DataError: a line has other fields than the others, or a word or a tag is missing.
        """
        sentence: list[tuple[str, str]] = []
        first = 0
        for number, fields in self.lines:
            if not fields or fields[0] == _DOCUMENT:
                if sentence:
                    yield first, sentence
                sentence = []
            elif not (fields[0].startswith("#") and self._is_comment(fields, form, bool(sentence))):
                if form.counted and form.width > 2 and _RANGE.fullmatch(fields[0]):
                    continue  # of CoNLL-U: several words that are written as one, or a word that is not
                first = first if sentence else number
                sentence.append(self._word(fields, form, (word, tag), number))
        if sentence:
            yield first, sentence

    @staticmethod
    def _is_comment(fields: list[str], form: _Form, inside: bool) -> bool:
        if inside:
            return False
        return len(fields) != form.width or (fields[-1] not in form.last and len(form.last) <= _MOST_TAGS)

    def _word(self, fields: list[str], form: _Form, places: tuple[int, int], number: int) -> tuple[str, str]:
        given = self.reading.format.columns
        width = form.width if given is None else len(given)
        if len(fields) != width:
            amount = f"{len(fields)} field{'s' if len(fields) != 1 else ''}"
            raise DataError(
                f"{self.shown}: line {number} has {amount}, {printable(' '.join(fields), 60)!r}, but "
                f"{'the first has' if given is None else 'format.columns names'} {width}; write a word, its tag and "
                f"what is between in a line, with {_BETWEEN.get(self.lines.separator, 'commas')} between them"
            )
        found = fields[places[0]], fields[places[1]]
        if not all(found):
            raise DataError(
                f"{self.shown}: line {number} has no {'tag' if found[0] else 'word'}; give each word one tag"
            )
        return found
