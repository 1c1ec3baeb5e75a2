"""`distill gc` during runs: the needs of active and recently ended runs are kept at any age."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.store import garbage, open_runs
from pipeline.store.checkpoints import CheckpointStore, open_store, verify
from pipeline.store.garbage import Garbage, find_garbage, remove_garbage
from pipeline.store.open_runs import cache_in_use, needs_of, open_run, read_records
from schemas.core.errors import Interrupted, TeacherError
from schemas.core.refs import FolderModel
from schemas.recipe.teacher import FinetunedTeacher
from stages.ports.protocols import TrainingState
from tests.support.manifests import manifest_of
from tests.unit.pipeline.store.contents import DAY, GENERAL, LEFT, TASK, TEACHER, commit, make_old

NOW = 0.0


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return open_store(tmp_path / "store")


def collect(store: CheckpointStore, older_than: float = 7 * DAY) -> Garbage:
    return remove_garbage(store, find_garbage(store, older_than=older_than))


def existing(store: CheckpointStore) -> set[str]:
    return {path.name[-16:] for path in (store.root / "checkpoints").iterdir()}


def save_state(store: CheckpointStore, digest: str, *needs: str) -> Path:
    states = store.states("general", digest, needs)
    states.save(TrainingState(step=1, tensors={}, numbers={}))
    return states.folder


def die(store: CheckpointStore, needs: set[str]) -> None:
    """Start a run that fails after it has registered its needs."""
    with suppress(KeyboardInterrupt), open_run(store.root, "toy") as run:
        run.needs(needs)
        raise KeyboardInterrupt


@pytest.mark.parametrize("older_than", [7 * DAY, NOW])
def test_old_stages_of_an_active_run_are_kept_with_their_parents(store: CheckpointStore, older_than: float) -> None:
    commit(store, TEACHER)
    commit(store, GENERAL, parent=TEACHER)
    commit(store, LEFT)
    states = save_state(store, TASK, GENERAL)
    with open_run(store.root, "toy") as run:
        run.needs({GENERAL, TASK})
        make_old(store)
        gone = collect(store, older_than)
        assert existing(store) == {TEACHER[:16], GENERAL[:16]}
        assert states.is_dir()
        assert [piece.path for piece in gone.pieces] == [f"checkpoints/teacher-{LEFT[:16]}"]
    assert read_records(store.root) == []


def test_the_record_of_a_dead_run_keeps_its_stages_until_it_is_older_than_the_limit(store: CheckpointStore) -> None:
    commit(store, GENERAL)
    die(store, {GENERAL})
    (record,) = read_records(store.root)
    assert not record.is_held
    make_old(store)
    assert collect(store).pieces == ()  # the record contains its time, regardless of the file's
    gone = {piece.path for piece in collect(store, NOW).pieces}
    assert gone == {f"checkpoints/teacher-{GENERAL[:16]}", f"open/{record.path.name}"}


def test_the_state_of_an_interrupted_stage_is_kept_with_its_parent_and_teachers(store: CheckpointStore) -> None:
    for digest in (TEACHER, GENERAL, LEFT):
        commit(store, digest)
    states = save_state(store, TASK, GENERAL, TEACHER)
    for path in (store.root / "checkpoints").rglob("*"):
        os.utime(path, (time.time() - 8 * DAY,) * 2)
    collect(store)
    assert existing(store) == {TEACHER[:16], GENERAL[:16]}
    assert states.is_dir()
    assert len(collect(store, NOW).pieces) == 3


def test_a_finished_run_removes_records_of_dead_runs_with_the_same_stages(store: CheckpointStore) -> None:
    for needs in ({GENERAL}, {GENERAL, LEFT}):
        die(store, needs)
    with open_run(store.root, "toy") as run:
        run.needs({GENERAL, TASK})
    assert [record.digests for record in read_records(store.root)] == [{GENERAL[:16], LEFT[:16]}]


def test_a_run_without_needs_leaves_no_record(store: CheckpointStore) -> None:
    die(store, set())
    assert read_records(store.root) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TeacherError("it guesses\nand guesses"), "it guesses"),
        (Interrupted("Ctrl-C"), None),
        (KeyError("a bug"), None),
    ],
)
def test_the_record_of_a_run_that_failed_says_why(store: CheckpointStore, error: Exception, reason: str | None) -> None:
    def fail() -> None:
        with open_run(store.root, "toy") as run:
            run.needs({GENERAL})
            raise error

    with pytest.raises(type(error)):
        fail()
    (record,) = read_records(store.root)
    assert (record.failed, record.is_held, record.digests) == (reason, False, {GENERAL[:16]})


def test_the_cache_of_a_starting_run_is_kept(store: CheckpointStore) -> None:
    rows = store.cache / "files" / "0123"
    rows.mkdir(parents=True)
    with open_run(store.root, "toy"):
        collected = collect(store, NOW)
        assert collected.in_use == ("cache/files/0123",)
        assert rows.is_dir()
    with cache_in_use(store.root):  # a plan, or an evaluation
        collect(store, NOW)
        assert rows.is_dir()
    collect(store, NOW)
    assert not rows.exists()


def test_needs_registered_between_search_and_removal_are_kept(store: CheckpointStore) -> None:
    commit(store, GENERAL)
    commit(store, LEFT)
    collected = find_garbage(store, older_than=NOW)
    assert len(collected.pieces) == 2
    with open_run(store.root, "toy") as run:
        run.needs({GENERAL})
        removed = remove_garbage(store, collected)
    assert existing(store) == {GENERAL[:16]}
    assert removed.in_use == (f"checkpoints/teacher-{GENERAL[:16]}",)


def test_registration_waits_while_files_are_removed(store: CheckpointStore) -> None:
    with open_run(store.root, "toy") as run:
        noted = threading.Thread(target=run.needs, args=({GENERAL},))
        with open_runs.gate(store.root):
            noted.start()
            noted.join(0.2)
            assert noted.is_alive()
            assert read_records(store.root)[0].digests == set()
        noted.join(10)
        assert read_records(store.root)[0].digests == {GENERAL[:16]}


def test_the_record_of_a_killed_process_is_unlocked_and_a_partial_line_is_ignored(store: CheckpointStore) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.store.open_runs import open_run\n"
        f"with open_run(Path({str(store.root)!r}), 'toy') as run:\n"
        f"    run.needs({{{GENERAL!r}}}); print('open', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert [record.is_held for record in read_records(store.root)] == [True]
        process.send_signal(signal.SIGKILL)
    (record,) = read_records(store.root)
    assert not record.is_held
    with record.path.open("ab") as file:
        file.write(b'{"needs": ["cccccc')
    assert read_records(store.root)[0].digests == {GENERAL[:16]}


def test_the_needs_of_a_stage_are_its_parent_its_teachers_and_another_recipes_student() -> None:
    teacher = FinetunedTeacher(model=FolderModel(path="/t/model"), stage_digest=TEACHER)
    student = FolderModel(path="/store/checkpoints/task_specific-0123456789abcdef/model")
    config = manifest_of().config.model_copy(update={"teacher": teacher, "pretrained": student})
    assert needs_of(config, GENERAL) == {TEACHER, GENERAL, "0123456789abcdef"}
    assert needs_of(config, None) == {TEACHER, "0123456789abcdef"}


def test_files_removed_during_the_search_are_ignored(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    states = save_state(store, TASK)
    read = garbage._text

    def goes(path: Path) -> str:
        shutil.rmtree(states, ignore_errors=True)
        return read(path)

    monkeypatch.setattr(garbage, "_text", goes)
    assert collect(store, NOW).pieces == ()


def test_a_locked_stage_keeps_the_inputs_of_its_state(store: CheckpointStore) -> None:
    commit(store, GENERAL)
    save_state(store, TASK, GENERAL)
    with store.lock("general", TASK):
        collected = collect(store, NOW)
    assert collected.in_use == (f"states/general-{TASK[:16]}",)
    assert verify(store.folder("teacher", GENERAL)).digest == GENERAL
