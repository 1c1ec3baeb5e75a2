"""Cache folders are complete and undamaged, or rewritten."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import datasets
import pytest

from stages.data.readers.files import read_file
from stages.storage import sealed_folder as whole
from stages.storage.sealed_folder import disk_error, is_whole, make_whole
from tests.torture.flips import HARMS


def fill(beside: Path) -> None:
    (beside / "inner").mkdir()
    (beside / "numbers.bin").write_bytes(bytes(range(200)))
    (beside / "inner" / "names.txt").write_text("a name\n", encoding="utf-8")


@pytest.mark.parametrize("harm", sorted(HARMS))
@pytest.mark.parametrize("name", ["numbers.bin", "inner/names.txt", "sealed.json"])
def test_damage_to_any_file_is_detected_and_repaired(harm: str, name: str, tmp_path: Path) -> None:

    folder = tmp_path / "cache" / "folder"
    assert not is_whole(folder)
    make_whole(folder, fill)
    assert is_whole(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    HARMS[harm](folder / name, random.Random(0))
    assert not is_whole(folder)
    make_whole(folder, fill)
    assert is_whole(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_folder_is_built_once_and_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    make_whole(folder, fill)
    identity = (folder / "numbers.bin").stat().st_ino
    make_whole(folder, fill)  # like a process that checked before the first had finished
    assert (folder / "numbers.bin").stat().st_ino == identity
    monkeypatch.setattr(whole, "differences", lambda *_, **__: pytest.fail("read again"))
    assert is_whole(folder)


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    def full(beside: Path) -> None:
        fill(beside)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        make_whole(tmp_path / "folder", full)
    assert list(tmp_path.iterdir()) == []


def test_a_file_replaced_with_the_same_name_and_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    texts = []
    for text in ("one", "two"):
        file.write_text(json.dumps({"text_a": text}) + "\n", encoding="utf-8")
        # The size is the same too, but other file attributes change with every write.
        os.utime(file, ns=(10**18, 10**18 + len(texts)))
        texts += read_file(file, tmp_path / "cache", "task.train").rows["text_a"]
    assert texts == ["one", "two"]


def test_rows_damaged_on_disk_are_written_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text_a": "one"}\n' * 50, encoding="utf-8")
    rows = read_file(file, tmp_path / "cache", "task.train").rows
    names = [Path(file["filename"]) for file in rows.cache_files]
    assert {name.parents[2] for name in names} == {tmp_path / "cache"}
    kept = names[0].read_bytes()
    del rows
    names[0].write_bytes(kept.replace(b"one", b"two", 1))
    assert read_file(file, tmp_path / "cache", "task.train").rows["text_a"] == ["one"] * 50


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only")])
def test_a_full_disk_is_not_reported_as_a_data_error(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    (tmp_path / "rows.jsonl").write_text('{"text_a": "one"}\n', encoding="utf-8")
    with pytest.raises(OSError, match=error.strerror) as caught:
        read_file(tmp_path / "rows.jsonl", tmp_path / "cache", "task.train")
    assert disk_error(caught.value) is error
    assert disk_error(ValueError("something else")) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "missing")) is None
