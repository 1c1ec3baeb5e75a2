"""Unreferenced files are removed on request; those needed by a run, a checkpoint or a running stage are kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.command_line import app
from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.store.garbage import find_garbage, remove_garbage, seconds_of
from schemas.core.errors import ConfigError
from schemas.results.manifest import CheckpointRef, Judgement, Row, RunReport
from tests.unit.pipeline.store.contents import DAY, GENERAL, LEFT, TASK, TEACHER, commit, make_old


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return open_store(tmp_path / "a store")


def report(store: CheckpointStore, checkpoint: CheckpointRef, name: str = "one") -> None:
    row = Row(name="task_specific", kind="stage", status="ran", judgement=Judgement(), checkpoint=checkpoint)
    store.write_report(RunReport(run=name, recipe="toy", task=None, store=str(store.root), rows=(row,), seconds=1.0))


def names(store: CheckpointStore, older_than: float = 7 * DAY) -> set[str]:
    return {piece.path for piece in find_garbage(store, older_than=older_than).pieces}


def test_checkpoints_reachable_from_a_report_are_kept(store: CheckpointStore) -> None:
    commit(store, TEACHER)
    commit(store, GENERAL, parent=TEACHER)
    report(store, commit(store, TASK, parent=GENERAL))
    left = Path(commit(store, LEFT).path)
    make_old(store)
    assert names(store) == {f"checkpoints/{left.name}"}
    gone = remove_garbage(store, find_garbage(store, older_than=7 * DAY))
    assert [piece.path for piece in gone.pieces] == [f"checkpoints/{left.name}"]
    assert gone.size > 10_000
    assert not left.exists()
    for digest in (TEACHER, GENERAL, TASK):
        assert verify(store.folder("teacher", digest)).digest == digest
    assert not [path for path in left.parent.iterdir() if path.name.startswith(".tmp")]
    assert names(store) == set()


def test_recent_checkpoints_are_kept(store: CheckpointStore) -> None:
    left = Path(commit(store, LEFT).path)
    assert names(store) == set()
    make_old(store)
    (left / "model" / "config.json").touch()
    assert names(store) == set()
    assert names(store, older_than=0.0) == {f"checkpoints/{left.name}"}


def test_unfinished_and_damaged_stages_and_cache_entries_are_removed_by_age(store: CheckpointStore) -> None:
    pieces = {
        f"states/general-{GENERAL[:16]}",
        "checkpoints/.damaged-general-0123456789abcdef-01234567",
        "cache/tokens/0123456789abcdef",
        "cache/teacher-0123456789abcdef",
    }
    for name in pieces:
        (store.root / name).mkdir(parents=True)
        (store.root / name / "data.bin").write_bytes(bytes(100))
    make_old(store)
    assert names(store) == pieces
    gone = remove_garbage(store, find_garbage(store, older_than=DAY))
    assert {piece.path for piece in gone.pieces} == pieces
    assert {piece.size for piece in gone.pieces} == {100}
    assert not any((store.root / name).exists() for name in pieces)
    assert (store.cache / "tokens").is_dir()


def test_locked_stages_are_kept(store: CheckpointStore) -> None:
    left, kept = (Path(commit(store, digest).path) for digest in (LEFT, TASK))
    states = store.root / "states" / f"general-{GENERAL[:16]}"
    tokens = store.cache / "tokens" / "0123456789abcdef"
    for folder in (states, tokens):
        folder.mkdir(parents=True)
    make_old(store)
    with store.lock("teacher", LEFT), store.lock("general", GENERAL):
        collected = remove_garbage(store, find_garbage(store, older_than=DAY))
    assert set(collected.in_use) == {path.relative_to(store.root).as_posix() for path in (left, states, tokens)}
    assert [piece.path for piece in collected.pieces] == [f"checkpoints/{kept.name}"]
    assert all(path.exists() for path in (left, states, tokens))
    assert not kept.exists()


def test_a_symbolic_link_is_removed_and_its_target_is_kept(store: CheckpointStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    link = store.root / "states" / f"general-{GENERAL[:16]}"
    link.symlink_to(outside)
    make_old(store)
    remove_garbage(store, find_garbage(store, older_than=DAY))
    assert not link.is_symlink()
    assert (outside / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize(("age", "seconds"), [("7 days", 7 * DAY), ("1.5 hours", 5400.0), ("0 minutes", 0.0)])
def test_valid_ages_are_parsed(age: str, seconds: float) -> None:
    assert seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "7", "days", "-1 days", "7 fortnights"])
def test_invalid_ages_are_refused(age: str) -> None:
    with pytest.raises(ConfigError, match="such as '7 days'"):
        seconds_of(age)


def test_gc_lists_by_default_and_removes_with_yes(store: CheckpointStore) -> None:
    left = Path(commit(store, LEFT).path)
    make_old(store)
    words = ["gc", "--store", str(store.root)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert left.name in shown.output
    assert "distill gc --yes" in shown.output
    assert left.exists()
    removed = CliRunner().invoke(app, [*words, "--yes"])
    assert removed.exit_code == 0
    assert "removed 0.0 MB in 1 place of" in removed.output
    assert not left.exists()
    assert "nothing to remove" in CliRunner().invoke(app, words).output


def test_two_thousand_checkpoints_are_searched_in_seconds(store: CheckpointStore) -> None:
    kept = commit(store, TASK)
    report(store, kept)
    whole = Path(kept.path)
    text = (whole / "manifest.json").read_text(encoding="utf-8")
    for number in range(2000):
        digest = f"{number:064x}"[::-1]
        folder = store.folder("teacher", digest)
        folder.mkdir()
        (folder / "manifest.json").write_text(text.replace(TASK, digest), encoding="utf-8")
    make_old(store)
    began = time.perf_counter()
    collected = find_garbage(store, older_than=DAY)
    elapsed = time.perf_counter() - began
    assert elapsed < 5.0, "takes one second on an idle machine"
    assert len(collected.pieces) == 2000
