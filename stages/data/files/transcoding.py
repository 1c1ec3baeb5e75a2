"""Text files in other encodings as the UTF-8 that every reader here takes."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import IO

from stages.data.files.compression import open_plain

# UTF-32's mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_AT_ONCE = 1 << 16
_OTHER_KINDS = (
    (b"PK\x03\x04", "a spreadsheet or a ZIP archive under another name; save it as CSV (UTF-8), or unzip it"),
    (b"PAR1", "a Parquet file under another name; call it .parquet"),
    (b"\x1f\x8b", "a gzip file under another name; call it .gz"),
    (b"version https://git-lfs.", "a pointer of Git LFS, not the file itself; fetch that with: git lfs pull"),
    (b"<!doctype html", "a web page; fetch the file itself, not the page that shows it"),
    (b"<html", "a web page; fetch the file itself, not the page that shows it"),
)


def other_kind(begin: bytes) -> str | None:
    """What a file is that only bears the name of a text file, by its first bytes, and what to do; None for text."""
    plain = begin.lstrip()[:40]
    return next((kind for mark, kind in _OTHER_KINDS if begin.startswith(mark) or plain.lower().startswith(mark)), None)


def marked_encoding(begin: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning of a file names; None for UTF-8 and without one."""
    return next((name for mark, name in _MARKS if begin.startswith(mark)), None)


def encoding_of(path: Path, given: str | None) -> str:
    """The encoding of a file: the one given, or the one that its mark names, otherwise UTF-8."""
    if given is not None:
        return given
    with open_plain(path) as file:
        return marked_encoding(file.read(4)) or "utf-8"


def open_utf8(path: Path, encoding: str) -> IO[bytes]:
    """The file's text as UTF-8, unpacked where it is packed; reading raises UnicodeDecodeError where it is none."""
    return as_utf8(open_plain(path), encoding)


def as_utf8(file: IO[bytes], encoding: str) -> IO[bytes]:
    """The text of a file as UTF-8; closing it closes the file."""
    return file if encoding == "utf-8" else io.BufferedReader(_Transcoded(file, encoding))


class _Transcoded(io.RawIOBase):
    """UTF-8 of a text in another encoding."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.rest, self.ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self.rest and not self.ended:
            chunk = self.file.read(_AT_ONCE)
            self.ended = not chunk
            # A lone surrogate is no character in UTF-8 either, and refused as such.
            text = self.decoder.decode(chunk, final=self.ended)
            self.rest = text.encode("utf-8", "surrogatepass")
        plain, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(plain)] = plain
        return len(plain)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()
