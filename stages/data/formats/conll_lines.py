"""The lines of a file of words with tags, as their fields, and whether a file is one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TextIO

from stages.data.files.compression import without_packing
from stages.data.files.read_request import Reading
from stages.data.files.transcoding import encoding_of, open_utf8

_WORDS = {"token", "tokens", "word", "words", "text", "form"}
_TAGS = {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "entity", "iob", "bio"}


class ConllLines:
    """A file's lines; those between sentences have no fields, and a header is left out."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self.reading = path, reading
        self.encoding = encoding_of(path, reading.format.encoding)
        is_csv = Path(without_packing(path.name)).suffix.lower() == ".csv"
        self.separator = reading.format.separator or ("," if is_csv else self._separator())
        """What stands between fields; None for blanks."""
        self.header = self._header()
        """Names of the fields; None where the file does not say them."""

    def _opened(self) -> TextIO:
        return io.TextIOWrapper(open_utf8(self.path, self.encoding), encoding="utf-8-sig")

    def _separator(self) -> str | None:
        with closing(self._opened()) as lines:
            tabs = any("\t" in line.strip() for line in lines if line[0] not in "#-\n")
        return "\t" if tabs else None

    def _header(self) -> list[str] | None:
        first = next((fields for _, fields in self._all() if fields), [])
        names = {name.casefold() for name in first}
        asked = [name.casefold() for name in self.reading.columns[:2]]
        if len(first) > 1 and (names >= {*asked} or (names & _WORDS and names & _TAGS)):
            return first
        return None

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Number and fields of each line."""
        is_header = self.header is not None
        for number, fields in self._all():
            if is_header and fields:
                is_header = False
            else:
                yield number, fields

    def _all(self) -> Iterator[tuple[int, list[str]]]:
        separator = self.separator
        with closing(self._opened()) as lines:
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
    """Whether blank lines stand between lines, some of which follow each other, as words of a sentence do."""
    encoding = encoding_of(path, reading.format.encoding)
    before = blank = together = between = has_header = False
    opened = io.TextIOWrapper(open_utf8(path, encoding), encoding="utf-8-sig")
    with closing(opened) as lines:
        for number, line in enumerate(lines):
            is_blank = not line.strip()
            if number == 0:
                has_header = all(name.casefold() in line.casefold() for name in reading.columns[:2])
            # A header and the first row follow each other in any table.
            together = together or (before and not is_blank and number > int(has_header))
            between = between or (blank and not is_blank)
            before, blank = not is_blank, is_blank and (blank or before)
            if together and between:
                return True
    return False
