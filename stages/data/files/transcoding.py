"""Text files in other encodings, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import IO

from stages.data.files.compression import FileView, open_plain

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_AT_ONCE = 1 << 16
_OTHER_KINDS = (
    (b"PK\x03\x04", "a spreadsheet or a ZIP archive with another ending; save it as CSV (UTF-8), or unzip it"),
    (b"PAR1", "a Parquet file with another ending; rename it to .parquet"),
    (b"\x1f\x8b", "a gzip file with another ending; rename it to .gz"),
    (b"version https://git-lfs.", "a Git LFS pointer, not the file itself; fetch the file with: git lfs pull"),
    (b"<!doctype html", "a web page; fetch the file itself, not the page that shows it"),
    (b"<html", "a web page; fetch the file itself, not the page that shows it"),
)


def other_kind(begin: bytes) -> str | None:
    """Return what a file is by its first bytes if it is no text, and what to do about it; None for text."""
    plain = begin.lstrip()[:40].lower()
    return next((kind for mark, kind in _OTHER_KINDS if begin.startswith(mark) or plain.startswith(mark)), None)


def encoding_of(path: Path, encoding: str | None) -> str:
    """Return the encoding of a file: `encoding` if given, else that of its byte order mark, else UTF-8."""
    if encoding is not None:
        return encoding
    with open_plain(path) as file:
        begin = file.read(4)
    return next((name for mark, name in _MARKS if begin.startswith(mark)), "utf-8")


def open_utf8(path: Path, encoding: str | None) -> IO[bytes]:
    """Open a file as UTF-8, decompressed; reading raises UnicodeDecodeError if it is not in its encoding."""
    return as_utf8(open_plain(path), encoding_of(path, encoding))


def open_text(path: Path, encoding: str | None, newline: str | None = None) -> io.TextIOWrapper:
    """Open a file as text, decompressed, without a byte order mark."""
    return io.TextIOWrapper(open_utf8(path, encoding), encoding="utf-8-sig", newline=newline)


def as_utf8(file: IO[bytes], encoding: str) -> IO[bytes]:
    """Return a file's text as UTF-8, as a stream whose closing closes the file."""
    return file if encoding == "utf-8" else io.BufferedReader(_Transcoded(file, encoding))


class _Transcoded(FileView):
    """A stream of UTF-8, made from text in another encoding."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.rest, self.ended = b"", False

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self.rest and not self.ended:
            chunk = self.file.read(_AT_ONCE)
            self.ended = not chunk
            # Whoever reads this as UTF-8 refuses a lone surrogate, as UTF-8 has none.
            text = self.decoder.decode(chunk, final=self.ended)
            self.rest = text.encode("utf-8", "surrogatepass")
        plain, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(plain)] = plain
        return len(plain)
