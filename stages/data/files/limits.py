"""Limits on what a file may cost in memory and time, checked before any of its rows is read.

A reader that meets a line of gigabytes, or a compressed file of a single byte repeated, takes all memory before it
fails.
"""

from __future__ import annotations

import codecs
import functools
import json
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.core.regular_files import open_regular
from schemas.core.wording import printable
from stages.data.files.compression import DAMAGED, packing_of, unpacked
from stages.data.files.transcoding import as_utf8, encoding_of, open_utf8, other_kind

CHUNK_BYTES = 1 << 20
# A row is a text, not a library: tokenising 2 MB takes a quarter of a gigabyte. No page of Wikipedia may be longer.
MAX_ROW_BYTES = 2 << 20
# A JSON array is read whole, and small values take forty times their text.
MAX_ARRAY_BYTES, MAX_ARRAY_COMMAS = 32 << 20, 1_000_000
# Time and memory of the readers grow with the square of the columns: 10,000 take half a minute and a gigabyte.
MAX_COLUMNS = 1000
_KEYS_BYTES = 10 << 20
# Text compresses three- to twentyfold; a file that compresses better than this is made to fill memory or disk.
MAX_PACKING = 200
FREE_BYTES = 64 << 20
_TOKENISED_BYTES = 8 << 20


def check_bounds(path: Path, suffix: str, where: str, encoding: str | None = None) -> None:
    """Refuse a file that cannot be text, or rows of a reasonable size; checked again only after it has changed.

    Args:
        path: the file.
        suffix: its format.
        where: the field that names it.
        encoding: of its text; None for UTF-8 or that of its byte order mark.

    Raises:
        DataError: with the line where there is one, and what to do.
    """
    status = path.stat()
    _check_version(str(path), suffix, where, encoding, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _check_version(name: str, suffix: str, where: str, named: str | None, _size: int, _mtime_ns: int) -> None:
    path, shown = Path(name), f"{where}: {name}"
    if suffix == ".parquet":
        _check_parquet(path, shown)
        return
    try:
        encoding = encoding_of(path, named)
        with open_regular(path) as packed:
            text = _TextCheck(shown, packed, may_be_array=suffix in (".json", ".jsonl"))
            text.read(as_utf8(unpacked(packed, name) if packing_of(name) else packed, encoding))
        if text.may_be_array:
            _check_keys(path, encoding, text)
    except DAMAGED as error:
        kind = "gzip" if packing_of(name) == ".gz" else packing_of(name)
        raise DataError(f"{shown} is cut short or no {kind} file ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown}: line {text.lines + 1} or one after it is not {encoding} ({error.reason}); give its encoding as "
            "format.encoding, or save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); check the disk") from None


class _TextCheck:
    """Checks a file that should be UTF-8 text, a chunk at a time."""

    def __init__(self, shown: str, packed: IO[bytes], *, may_be_array: bool) -> None:
        self.shown, self.packed = shown, packed
        self.may_be_array = may_be_array
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.total = self.lines = self.line_bytes = self.commas = 0
        self.is_blank, self.is_array = True, False

    def read(self, file: IO[bytes]) -> None:
        while chunk := file.read(CHUNK_BYTES):
            if not self.total:
                if kind := other_kind(chunk):
                    raise DataError(f"{self.shown} is {kind}")
                chunk = chunk.removeprefix(codecs.BOM_UTF8)
                self.is_array = self.may_be_array and chunk.lstrip()[:1] == b"["
            self.total += len(chunk)
            self.commas += chunk.count(b",")
            if self.is_array and (self.total > MAX_ARRAY_BYTES or self.commas > MAX_ARRAY_COMMAS):
                raise DataError(
                    f"{self.shown} is one JSON array of more than {MAX_ARRAY_BYTES >> 20} MB or {MAX_ARRAY_COMMAS:,} "
                    "values; write one row per line"
                )
            if self.total > (allowed := allowed_bytes(self.packed.tell())):
                raise unpacks_too_far(self.shown, allowed)
            self._check_text(chunk)
            if not self.is_array:
                self._check_lines(chunk)
            self.lines += chunk.count(b"\n")
            self.is_blank = self.is_blank and not chunk.strip()
        self._decode(b"", final=True)
        if self.is_blank:
            raise DataError(f"{self.shown} is empty; give a file with rows")

    def _check_text(self, chunk: bytes) -> None:
        if (position := chunk.find(b"\0")) >= 0:
            line = self.lines + chunk.count(b"\n", 0, position) + 1
            raise DataError(
                f"{self.shown}: line {line} holds a NUL byte; save the file as UTF-8 text{_sixteen_bits(chunk)}"
            )
        self._decode(chunk)

    def _decode(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self.decoder.decode(chunk, final=final)
        except UnicodeDecodeError as error:
            line = self.lines + error.object.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.shown}: line {line} is not UTF-8; give the file's encoding, such as format.encoding: cp1252, "
                "or convert it: iconv -f CP1252 -t UTF-8 OLD > NEW"
            ) from None

    def _check_lines(self, chunk: bytes) -> None:
        # A chunk is shorter than the longest line allowed, so only the line that it begins in can be too long.
        end = chunk.find(b"\n")
        self.line_bytes += len(chunk) if end < 0 else end
        if self.line_bytes > MAX_ROW_BYTES:
            raise DataError(
                f"{self.shown}: line {self.lines + 1} is longer than {MAX_ROW_BYTES >> 20} MB; a row is one text: "
                "split it into several rows"
            )
        if end >= 0:
            self.line_bytes = len(chunk) - chunk.rfind(b"\n") - 1


def _sixteen_bits(chunk: bytes) -> str:
    """Return advice for a text in UTF-16 without a byte order mark; empty for others."""
    begin = chunk[:200]
    for nul, name in ((begin[1::2], "utf-16-le"), (begin[::2], "utf-16-be")):
        if nul and nul.count(0) > len(nul) // 2:
            return f", or give its encoding, which seems to be format.encoding: {name}"
    return ""


def _check_keys(path: Path, encoding: str, text: _TextCheck) -> None:
    """Refuse rows with keys of their own each; the first rows are enough, since they decide what the columns are."""
    names: set[str] = set()
    seen = 0
    with open_utf8(path, encoding) as file:
        rows = [file.read()] if text.is_array else file
        for number, row in enumerate(rows, start=1):
            try:
                json.loads(row, object_pairs_hook=lambda pairs: names.update(dict(pairs)))
            except (ValueError, RecursionError):
                return  # reported where the rows are read
            if len(names) > MAX_COLUMNS:
                rows_read = "its rows" if text.is_array else f"the rows up to line {number}"
                raise DataError(
                    f"{text.shown}: {rows_read} have more than {MAX_COLUMNS:,} different keys; give every row the same "
                    "few, such as text and label"
                )
            seen += len(row)
            if seen > _KEYS_BYTES:
                return


def _check_parquet(path: Path, shown: str) -> None:
    """Check the footer alone; `stages.data.formats.parquet` checks the size of the named columns."""
    try:
        columns = pq.read_metadata(path).num_columns
    except Exception as error:
        # pyarrow raises whatever a damaged file leads it to.
        raise unreadable_parquet(shown, error) from None
    if columns > MAX_COLUMNS:
        raise DataError(f"{shown} has {columns:,} columns; give a file of at most {MAX_COLUMNS:,}")


def unreadable_parquet(shown: str, error: Exception) -> DataError:
    """Return the error for a Parquet file that cannot be read; `shown` is its field and path."""
    cause = printable(" ".join(str(error).split()), 300)
    return DataError(f"{shown}: cannot be read as .parquet ({cause}); write the file again")


def allowed_bytes(packed: int) -> int:
    """Return how many bytes a file of `packed` bytes may hold."""
    return max(FREE_BYTES, MAX_PACKING * packed)


def unpacks_too_far(shown: str, allowed: int) -> DataError:
    """Return the error for a file that holds more bytes than allowed; `shown` is its field and path."""
    return DataError(
        f"{shown} unpacks to more than {allowed / 1e6:,.0f} MB, {MAX_PACKING} times its size or more; no text does: "
        "fetch it again, or give another file"
    )


def row_too_long(where: str, column: str, row: int | str) -> DataError:
    """Return the error for a text that is longer than a row may be."""
    return DataError(
        f"{where}: row {row}: column {column!r} holds more than {MAX_ROW_BYTES >> 20} MB; a row is one text: split it "
        "into several rows"
    )


def rows_at_once(rows: Dataset, most: int) -> int:
    """Return how many rows to tokenise at once: `most`, or fewer if they are long."""
    mean = max(1, rows.data.nbytes // max(1, rows.data.num_rows))
    return max(1, min(most, _TOKENISED_BYTES // mean))
