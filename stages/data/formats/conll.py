"""Files of tagged words, one word per line: the CoNLL format and its relatives.

A blank line ends a sentence. The first field of a line is the word (the second if the first counts the words), the last
is its tag, unless the recipe or a header names the columns. `-DOCSTART-` lines and comments are no words: a comment
begins with `#` before the first word of a sentence, and does not have a word's fields.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa

from schemas.core.errors import DataError
from schemas.core.wording import printable
from stages.data.files.file_names import suffix_of
from stages.data.files.read_request import ArrowRows, Reading, renamed
from stages.data.files.transcoding import open_text
from stages.data.formats.csv_rows import counted

_BETWEEN = {None: "blanks", "\t": "tabs"}
_DOCUMENT = "-DOCSTART-"
_SENTENCES_AT_ONCE = 1000
_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"\d+[-.]\d+")
_MOST_TAGS = 1000
_WORDS = {"token", "tokens", "word", "words", "text", "form"}
_TAGS = {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "entity", "iob", "bio"}


Sentence = list[tuple[str, str]]
"""Words with their tags."""


@dataclass
class _Form:
    """Properties that all lines of a file share."""

    width: int = 0
    words: int = 0
    """Lines that are words."""
    numbered: bool = True
    """True if the first field counts the words of each sentence."""
    last: set[str] = field(default_factory=set)
    """Values of the last field, in lines that do not begin with a number sign."""

    @property
    def skips_ranges(self) -> bool:
        """True to skip lines numbered `1-2` or `1.1`: CoNLL-U's contractions and empty words."""
        return self.numbered and self.width > 2


def write_conll_rows(path: Path, reading: Reading, where: str, into: Path) -> list[str]:
    """Write the sentences of a file to an Arrow file that `datasets` opens: a list of words and one of tags each.

    Args:
        path: the file, compressed or not.
        reading: names the two columns first, and possibly all columns of the file.
        where: the field that names the file.
        into: the Arrow file; not created if the file has no sentence.

    Returns:
        A remark about the fields that were read.

    Raises:
        DataError: a line is wrong; with its number.
    """
    file = _ConllFile(path, reading, f"{where}: {path}")
    if not file.form.words:
        raise DataError(f"{file.shown} has no words; give a file that has some")
    sentences = file.sentences()
    kind = datasets.List(datasets.Value("string"))
    with ArrowRows(into, dict.fromkeys(reading.columns[:2], kind)) as rows:
        while batch := [sentence for _, sentence in islice(sentences, _SENTENCES_AT_ONCE)]:
            lists = [[[fields[column] for fields in sentence] for sentence in batch] for column in (0, 1)]
            rows.write([pa.array(values, pa.list_(pa.string())) for values in lists])
    return [file.remark]


def conll_line(path: Path, reading: Reading, where: str, row: int) -> int | None:
    """Return the line of the first word of a sentence, both counted from 1; None if there is no such sentence.

    Raises:
        DataError: a line before it is wrong.
    """
    sentences = _ConllFile(path, reading, f"{where}: {path}").sentences()
    return next((line for line, _ in islice(sentences, row - 1, row)), None)


class _ConllFile:
    """A file with the columns of its words and tags.

    Raises:
        DataError: it has words, but no two such columns.
    """

    def __init__(self, path: Path, reading: Reading, shown: str) -> None:
        self.reading, self.shown = reading, shown
        self.lines = _Lines(path, reading)
        self.form = self._form()
        self.word, self.tag, self.remark = self._columns() if self.form.words else (0, 0, "")

    def _form(self) -> _Form:
        """Read all lines once for what they have in common."""
        form = _Form()
        position = 0
        for _, fields in self.lines:
            if not fields or fields[0] == _DOCUMENT:
                position = 0
                continue
            if fields[0].startswith("#"):
                continue
            position += 1
            form.words += 1
            form.width = form.width or len(fields)
            is_range = _RANGE.fullmatch(fields[0]) is not None
            form.numbered = form.numbered and (is_range or _is_count(fields[0], position))
            position -= form.numbered and is_range
            if len(form.last) <= _MOST_TAGS:
                form.last.add(fields[-1])
        return form

    def _columns(self) -> tuple[int, int, str]:
        """Return the fields of the word and of the tag, and a remark about them."""
        form, wanted = self.form, self.reading.columns[:2]
        columns = self.reading.format.columns or self._header()
        if columns is not None:
            missing = [name for name in wanted if name not in columns]
            if missing:
                raise DataError(
                    f"{self.shown}: format.columns names {', '.join(columns)} but not {missing[0]!r}, which the task "
                    "reads; name the column of the words and that of the tags as the task does"
                )
            word, tag = (columns.index(name) for name in wanted)
            return word, tag, f"read as CoNLL: words in field {word + 1}, tags in field {tag + 1}"
        word, tag = int(form.skips_ranges), form.width - 1
        if tag <= word:
            raise DataError(
                f"{self.shown}: a line has one field; give each word a line with the word and its tag, and a blank "
                "line after each sentence"
            )
        if form.last <= {"_", "-"} or (form.skips_ranges and form.last <= {"_", "SpaceAfter=No"}):
            names = [f"field_{number}" for number in range(1, form.width + 1)]
            names[1], names[3 if form.width > 3 else -1] = wanted
            raise DataError(
                f"{self.shown}: the last of {form.width} fields, where the tag is expected, is empty; name all fields "
                f"in order, such as format.columns: [{', '.join(names)}]"
            )
        choice = " (format.columns names others)" if form.width > 2 else ""
        return word, tag, f"read as CoNLL: words in field {word + 1}, tags in field {tag + 1} of {form.width}{choice}"

    def _header(self) -> tuple[str, ...] | None:
        """Return the header, with the two wanted columns by their wanted names; None if it lacks one of them."""
        header, wanted = self.lines.header or [], self.reading.columns[:2]
        as_wanted = renamed(header, wanted)
        names = tuple(as_wanted.get(name, name) for name in header)
        return names if {*wanted} <= {*names} else None

    def sentences(self) -> Iterator[tuple[int, Sentence]]:
        """Yield the line of the first word, and the words with their tags, of each sentence.

        Raises:
            DataError: a line has another number of fields than the others, or a word or a tag is missing.
        """
        sentence: Sentence = []
        first = 0
        for number, fields in self.lines:
            if not fields or fields[0] == _DOCUMENT:
                if sentence:
                    yield first, sentence
                sentence = []
            elif not (fields[0].startswith("#") and not sentence and self._is_comment(fields)):
                if self.form.skips_ranges and _RANGE.fullmatch(fields[0]):
                    continue
                first = first if sentence else number
                sentence.append(self._word(fields, number))
        if sentence:
            yield first, sentence

    def _is_comment(self, fields: list[str]) -> bool:
        last = self.form.last
        return len(fields) != self.form.width or (fields[-1] not in last and len(last) <= _MOST_TAGS)

    def _word(self, fields: list[str], number: int) -> tuple[str, str]:
        columns = self.reading.format.columns
        width = self.form.width if columns is None else len(columns)
        if len(fields) != width:
            raise DataError(
                f"{self.shown}: line {number} has {counted(len(fields), 'field')}, "
                f"{printable(' '.join(fields), 60)!r}, but "
                f"{'the first has' if columns is None else 'format.columns names'} {width}; write a word, its tag and "
                f"the fields between on one line, separated by {_BETWEEN.get(self.lines.separator, 'commas')}"
            )
        word, tag = fields[self.word], fields[self.tag]
        if not word or not tag:
            raise DataError(f"{self.shown}: line {number} has no {'tag' if word else 'word'}; give each word one tag")
        return word, tag


def _is_count(text: str, position: int) -> bool:
    return _NUMBER.fullmatch(text) is not None and int(text) in (position, position - 1)


class _Lines:
    """A file's lines without its header; those between sentences have no fields."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self.reading = path, reading
        self.separator = reading.format.separator or ("," if suffix_of(path) == ".csv" else self._separator())
        """Separator of the fields; None for blanks."""
        self.header = self._header()
        """Names of the fields; None if the file has no header."""

    def _separator(self) -> str | None:
        with closing(open_text(self.path, self.reading.format.encoding)) as lines:
            return "\t" if any("\t" in line.strip() for line in lines if line[0] not in "#-\n") else None

    def _header(self) -> list[str] | None:
        first = next((fields for _, fields in self._all() if fields), [])
        names = {name.casefold() for name in first}
        wanted = {name.casefold() for name in self.reading.columns[:2]}
        is_header = len(first) > 1 and (names >= wanted or (names & _WORDS and names & _TAGS))
        return first if is_header else None

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the fields of each line."""
        is_header = self.header is not None
        for number, fields in self._all():
            if is_header and fields:
                is_header = False
            else:
                yield number, fields

    def _all(self) -> Iterator[tuple[int, list[str]]]:
        separator = self.separator
        with closing(open_text(self.path, self.reading.format.encoding)) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    yield number, []
                elif separator == "\t" and "\t" in line:
                    yield number, [part.strip() for part in line.rstrip().split("\t")]
                elif separator is not None and separator in line:
                    yield number, next(csv.reader([line.strip()], delimiter=separator))
                else:  # other white space may be part of a word
                    yield number, re.split(r"[ \t]+", line.strip(" \t\n"))


def has_sentences(path: Path, reading: Reading) -> bool:
    """Return whether blank lines separate groups of lines, some of several lines, as they separate sentences."""
    was_text = was_blank = have_neighbours = have_gaps = has_header = False
    with closing(open_text(path, reading.format.encoding)) as lines:
        for number, line in enumerate(lines):
            is_blank = not line.strip()
            if number == 0:
                has_header = all(name.casefold() in line.casefold() for name in reading.columns[:2])
            # A header and the first row are neighbours in any table.
            have_neighbours = have_neighbours or (was_text and not is_blank and number > int(has_header))
            have_gaps = have_gaps or (was_blank and not is_blank)
            was_text, was_blank = not is_blank, is_blank and (was_blank or was_text)
            if have_neighbours and have_gaps:
                return True
    return False
