"""Compressed files (.gz, .bz2, .xz and .zst) read as the bytes they hold, a little at a time.

`lzma.LZMAFile` takes no memory limit, and a header may ask for a window of gigabytes: so .xz is read through
`LZMADecompressor`, which does, and .bz2 by the same loop.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

import pyarrow as pa

from schemas.core.regular_files import open_regular

PACKINGS = (".gz", ".bz2", ".xz", ".zst")
# `xz -9` asks for as much, and zstd allows itself as much.
MAX_WINDOW_BYTES = 128 << 20
_PACKED_AT_ONCE = 1 << 16

DAMAGED = (EOFError, zlib.error)
"""Raised on reading a file that is cut short, or not compressed as its name says."""


def packing_of(name: str) -> str:
    """Return the ending that names a file's compression; empty for a plain file."""
    return next((ending for ending in PACKINGS if name.endswith(ending)), "")


def without_packing(name: str) -> str:
    """Return the file's name without the ending of its compression."""
    return name.removesuffix(packing_of(name))


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its name says that it is compressed."""
    file = open_regular(path)
    return unpacked(file, path.name) if packing_of(path.name) else file


def unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    """Return the bytes that a compressed file holds, as a stream whose closing closes the file."""
    readers: dict[str, Callable[[], _Reader]] = {
        ".gz": lambda: gzip.GzipFile(fileobj=file),
        ".bz2": lambda: _Streams(file, bz2.BZ2Decompressor),
        ".xz": lambda: _Streams(file, lambda: lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)),
        ".zst": lambda: pa.CompressedInputStream(file, "zstd"),
    }
    return io.BufferedReader(_Unpacked(file, readers[packing_of(name)]()))


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Streams:
    """Reader of a file's compressed streams one after the other, as the command-line tools read them."""

    def __init__(self, file: IO[bytes], new: Callable[[], object]) -> None:
        self.file, self.new = file, new
        self.current = cast("_Decompressor", new())
        self.began, self.rest = False, b""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end."""
        while True:
            if self.current.eof and not self._next_stream():
                return b""
            packed = self.rest
            if not packed and self.current.needs_input:
                packed = self.file.read(_PACKED_AT_ONCE)
                if not packed and self.began:
                    raise EOFError("the compressed data ends too early")
                if not packed:
                    return b""
            self.rest, self.began = b"", True
            if plain := self.current.decompress(packed, size):
                return plain

    def _next_stream(self) -> bool:
        """Begin the next stream; return False if nothing but padding follows."""
        self.rest = self.current.unused_data.lstrip(b"\0")
        while not self.rest:
            if not (packed := self.file.read(_PACKED_AT_ONCE)):
                return False
            self.rest = packed.lstrip(b"\0")
        self.current, self.began = cast("_Decompressor", self.new()), False
        return True


class FileView(io.RawIOBase):
    """A stream of bytes made from those of a file, which is closed with it."""

    file: IO[bytes]

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file as well."""
        if not self.closed:
            self.file.close()
        super().close()


class _Unpacked(FileView):
    """A stream of decompressed bytes that raises EOFError for damaged content, whatever the library raises."""

    def __init__(self, file: IO[bytes], reader: _Reader) -> None:
        self.file, self.reader = file, reader

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            plain = self.reader.read(len(buffer))
        except (lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk, not of the content
            raise EOFError(str(error)) from None
        buffer[: len(plain)] = plain
        return len(plain)
