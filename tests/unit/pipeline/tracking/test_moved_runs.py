"""A stage that goes on on another machine keeps its run in MLflow; the machine that comes back changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import run_files
from pipeline.tracking.session import REUSED_TAG, Tracking

DIGEST = {"distill.digest": "abc"}


def history(client: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))


@contextmanager
def machine(database: str, folder: Path, name: str) -> Iterator[Tracking]:
    """Tracking on a machine whose run files are its own."""
    tracking = Tracking(database, folder.name, folder / name / "points", artifacts=folder / "artifacts")
    yield tracking
    tracking.close()


def begin(tracking: Tracking, steps: range, end: str | None) -> str:
    """Log some steps of the stage in a new run; without an end it is that of a machine that is gone."""
    run = tracking.start_run("general", {"seed": 1}, DIGEST)
    for step in steps:
        run.log(step, {"train/loss": float(step)})
    if end is None:
        tracking.worker.ask("all", lambda server: list(server.deliver(run._file)))
        run.release()
    else:
        run.finish(end)
    assert run.run_id is not None
    return run.run_id


def go_on(tracking: Tracking, key: str | None, steps: range) -> str | None:
    """Log the steps from the last state on, and finish."""
    run = tracking.start_run("general", {"seed": 1}, DIGEST, resumed=key)
    for step in steps:
        run.log(step, {"train/loss": float(step)})
    run.finish()
    assert [point.step for point in run_files.read_points(run.points)] == list(range(1, 11))
    return run.run_id


@pytest.mark.parametrize("end", [None, "KILLED", "FAILED"])
def test_a_moved_stage_has_one_run_with_every_step_once(
    end: str | None, database: str, tmp_path: Path, client: Any
) -> None:
    with machine(database, tmp_path, "first") as first:
        began = begin(first, range(1, 8), end)
    with machine(database, tmp_path, "second") as second:
        assert second.run_to_continue("xyz", is_owner=True) is None
        key = second.run_to_continue("abc", is_owner=True)
        assert key == began
        assert go_on(second, key, range(5, 11)) == began
        assert second.run_to_continue("abc", is_owner=True) is None
    assert history(client, began, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    assert client.get_run(began).info.status == "FINISHED"
    assert client.get_run(began).data.params == {"seed": "1"}

    # The first machine is back, and what it had not sent is of no use any more.
    path = tmp_path / "first" / "points" / f"{began}.jsonl"
    kept = run_files.PointFile(path)
    kept.append(8, {"train/loss": 8.0})
    kept.end("KILLED")
    with machine(database, tmp_path, "first") as first:
        first.send_kept()
    assert history(client, began, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    assert client.get_run(began).info.status == "FINISHED"


def test_a_run_that_may_be_anothers_or_only_found_the_stage_is_left_alone(
    database: str, tmp_path: Path, client: Any
) -> None:
    with machine(database, tmp_path, "first") as first:
        began = begin(first, range(1, 4), None)
        reused = first.start_run("general (reused)", {}, {**DIGEST, REUSED_TAG: "true"})
        reused.finish("KILLED")
    with machine(database, tmp_path, "second") as second:
        assert second.run_to_continue("abc", is_owner=False) is None
        assert second.run_to_continue("abc", is_owner=True) == began
    # Once it has ended, anybody may go on with it.
    client.set_terminated(began, "KILLED")
    with machine(database, tmp_path, "third") as third:
        assert third.run_to_continue("abc", is_owner=False) == began


def test_a_server_that_is_away_gives_no_run(tmp_path: Path) -> None:
    with machine("http://127.0.0.1:9", tmp_path, "first") as tracking:
        assert tracking.run_to_continue("abc", is_owner=True) is None
