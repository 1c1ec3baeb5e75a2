"""Compressed files: the same bytes for every compression, and an error for damaged ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.core.errors import DataError
from stages.data.files.compression import open_plain, packing_of, without_packing
from stages.data.files.limits import check_bounds

PLAIN = os.urandom(60_000).hex().encode() + b"\nlast line\n"


def zstd(plain: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(plain)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
every_packing = pytest.mark.parametrize("ending", sorted(PACK))


@every_packing
def test_files_with_zero_one_and_several_streams_are_decompressed(tmp_path: Path, ending: str) -> None:
    pack, file = PACK[ending], tmp_path / f"a.txt{ending}"
    for packed, plain in [
        (pack(PLAIN), PLAIN),
        (pack(PLAIN) + pack(b"") + pack(b"more\n"), PLAIN + b"more\n"),
        (pack(b""), b""),
        (b"", b""),
    ]:
        file.write_bytes(packed)
        with open_plain(file) as opened:
            assert opened.read() == plain
        with open_plain(file) as opened:
            assert opened.readlines() == plain.splitlines(keepends=True)


@every_packing
def test_truncated_or_mislabelled_content_is_refused(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.txt{ending}"
    for content in (PACK[ending](PLAIN)[:-100], b"not packed at all " * 9):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"data: .*a.txt{ending} is cut short or no") as caught:
            check_bounds(file, ".txt", "data")
        assert "fetch it again" in str(caught.value)


@pytest.mark.parametrize("ending", [".xz", ".zst"])  # .bz2 is read by the code of .xz
def test_bomb_is_refused(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.txt{ending}"
    file.write_bytes(PACK[ending](b"a\n" * 1_000_000) * 40)
    with pytest.raises(DataError, match="unpacks to more than 67 MB"):
        check_bounds(file, ".txt", "data")


def test_window_of_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(b"x\n"))
    # The first block's header, behind the stream's: its size, flags, the filter, and the window as 2 << 30.
    end = 12 + 4 * (packed[12] + 1)
    assert packed[14:16] == bytes([0x21, 1])
    packed[16] = 38
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    (tmp_path / "a.txt.xz").write_bytes(packed)
    with pytest.raises(DataError, match="Memory usage limit"):
        check_bounds(tmp_path / "a.txt.xz", ".txt", "data")


def test_compression_is_derived_from_the_name() -> None:
    assert [packing_of(name) for name in ("a.jsonl", "a.b.xz", "a.gz")] == ["", ".xz", ".gz"]
    assert without_packing("a.jsonl.zst") == "a.jsonl"
