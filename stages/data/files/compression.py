"""Packed files as the bytes that they hold, read a little at a time: .gz, .bz2, .xz and .zst."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

import pyarrow as pa

from schemas.core.regular_files import open_regular

PACKINGS = (".gz", ".bz2", ".xz", ".zst")
# What `xz -9` asks for, and what zstd allows itself; a header may ask for gigabytes.
MAX_WINDOW_BYTES = 128 << 20
_PACKED_AT_ONCE = 1 << 16

DAMAGED = (EOFError, zlib.error)
"""What readers raise of a file that is cut short, or is not what its name says."""


def packing_of(name: str) -> str:
    """The ending that says how a file is packed; empty for a plain one."""
    return next((ending for ending in PACKINGS if name.endswith(ending)), "")


def without_packing(name: str) -> str:
    """The file's name as it would be unpacked."""
    return name.removesuffix(packing_of(name))


def open_plain(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name says that it is packed."""
    file = open_regular(path)
    return unpacked(file, path.name) if packing_of(path.name) else file


def unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    """The bytes that a packed file holds; closing them closes it."""
    starts: dict[str, Callable[[], _Reader]] = {
        ".gz": lambda: gzip.GzipFile(fileobj=file),
        ".bz2": lambda: _Streams(file, bz2.BZ2Decompressor),
        ".xz": lambda: _Streams(file, _xz),
        ".zst": lambda: pa.CompressedInputStream(_Unclosed(file), "zstd"),
    }
    return io.BufferedReader(_Unpacked(file, starts[packing_of(name)]))


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)


class _Unclosed:
    """A file whose reader may go without closing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.closed = file.read, False

    def close(self) -> None:
        """Nothing: the file may be read again."""


class _Reader(Protocol):
    def read(self, size: int) -> bytes: ...


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Streams:
    """Reads the packed streams of a file one after the other, as the command-line tools do."""

    def __init__(self, file: IO[bytes], make: Callable[[], object]) -> None:
        self.file, self.make = file, make
        self.current = cast("_Decompressor", make())
        self.began, self.rest = False, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while True:
            if self.current.eof and not self._next_stream():
                return b""
            packed = self.rest
            if not packed and self.current.needs_input:
                packed = self.file.read(_PACKED_AT_ONCE)
                if not packed and self.began:
                    raise EOFError("it ends in the middle")
                if not packed:
                    return b""
            self.rest, self.began = b"", True
            if plain := self.current.decompress(packed, size):
                return plain

    def _next_stream(self) -> bool:
        """Begin what follows the end of a stream; false where nothing does but padding."""
        self.rest = self.current.unused_data.lstrip(b"\0")
        while not self.rest:
            if not (packed := self.file.read(_PACKED_AT_ONCE)):
                return False
            self.rest = packed.lstrip(b"\0")
        self.current, self.began = cast("_Decompressor", self.make()), False
        return True


class _Unpacked(io.RawIOBase):
    """A stream that can be read, and begun again."""

    def __init__(self, file: IO[bytes], start: Callable[[], _Reader]) -> None:
        self.file, self.start = file, start
        self.reader, self.place = start(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            plain = self.reader.read(len(buffer))
        except (lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, not the content's
            raise EOFError(str(error)) from None
        buffer[: len(plain)] = plain
        self.place += len(plain)
        return len(plain)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """To the beginning alone."""
        if offset or whence:
            raise io.UnsupportedOperation("a packed file can only be begun again")
        self.file.seek(0)
        self.reader, self.place = self.start(), 0
        return 0

    def tell(self) -> int:
        return self.place

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()
