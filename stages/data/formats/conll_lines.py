"""Lines of a file of tagged words, split into fields, and the check whether a file is one."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from stages.data.files.file_names import suffix_of
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import open_text

_WORDS = {"token", "tokens", "word", "words", "text", "form"}
_TAGS = {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "entity", "iob", "bio"}


class ConllLines:
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
