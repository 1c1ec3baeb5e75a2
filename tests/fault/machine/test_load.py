"""A store with thousands of checkpoints is as fast as an empty one, and concurrent runs in one store lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from pipeline.planning.plan import make_plan
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.garbage import find_garbage
from schemas.results.manifest import Judgement, Row, RunReport
from stages.storage.sealed_folder import seal_of
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.toys import toy_recipe
from tests.torture.soak import Soak, growth_of, judge_growth, look_at_mlflow, look_at_store, soak_campaign

CHECKPOINTS = 2000
SECONDS = 1.0


def fill(store: CheckpointStore, number: int) -> None:
    """Add checkpoints, each with a report."""
    reference = store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
    manifest = (Path(reference.path) / "manifest.json").read_text(encoding="utf-8")
    row = Row(name="teacher", kind="teacher", status="ran", judgement=Judgement())
    for count in range(number):
        digest = f"{count:064x}"[::-1]
        folder = store.folder("teacher", digest)
        shutil.copytree(reference.path, folder, copy_function=os.link)
        for name in ("manifest.json", "manifest.sha256"):
            (folder / name).unlink()
        text = manifest.replace(DIGEST, digest)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        (folder / "manifest.sha256").write_text(seal_of(text.encode()), encoding="utf-8")
        moved_row = row.model_copy(
            update={"checkpoint": reference.model_copy(update={"path": str(folder), "digest": digest})}
        )
        report = RunReport(run=f"run-{count}", recipe="toy", task=None, store="s", rows=(moved_row,), seconds=1.0)
        text = report.model_dump_json(indent=1)
        (store.root / "runs" / f"run-{count}.json").write_text(text, encoding="utf-8")


def seconds(job: Callable[[], Any]) -> float:
    """Return the shorter time of two calls, so that the load of other processes does not count."""
    durations = []
    for _ in range(2):
        began = time.perf_counter()
        job()
        durations.append(time.perf_counter() - began)
    return min(durations)


def test_two_thousand_checkpoints_slow_no_command_by_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy_recipe(tmp_path / "in")
    stores = {"empty": open_store(tmp_path / "empty"), "full": open_store(tmp_path / "full")}
    fill(stores["full"], CHECKPOINTS)
    digest = f"{CHECKPOINTS - 1:064x}"[::-1]
    jobs: dict[str, Callable[[CheckpointStore], Any]] = {
        "open": lambda store: open_store(store.root),
        "list": lambda store: store.list_reports(),
        "find": lambda store: store.find("teacher", digest),
        "plan": lambda store: make_plan(recipe, store.root),
        "garbage": lambda store: find_garbage(store, older_than=0.0),
    }
    assert stores["full"].find("teacher", digest) is not None
    make_plan(recipe, stores["empty"].root)  # the matrix rate is measured once in a process
    for name, job in jobs.items():
        empty, full = (seconds(lambda: job(stores[which])) for which in ("empty", "full"))  # noqa: B023
        with capsys.disabled():
            print(f"{name}: {empty:.3f} s with an empty store, {full:.3f} s with {CHECKPOINTS:,}")
        assert full - empty < SECONDS, name


@pytest.mark.integration
@pytest.mark.usefixtures("prefect")
def test_concurrent_runs_in_one_store_lose_nothing_and_leak_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    campaign = soak_campaign(tmp_path, cases=4, at_once=2)
    # After so few runs memory is still at its initial level.
    assert [loss for loss in campaign.losses if "kB more" not in loss] == []
    assert campaign.runs == 4
    assert min(campaign.trained, campaign.reused) > 4
    _notices_what_is_missing(tmp_path, campaign)


def _notices_what_is_missing(folder: Path, whole: Soak) -> None:
    """Check that missing and leftover files in a copy of the store are detected."""
    store = open_store(folder / "store")
    logs = sorted(folder.glob("worker-*.jsonl"))
    lines = [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]
    (store.root / "states" / "general-0123456789abcdef").mkdir()
    next((store.root / "checkpoints").glob("general-*/manifest.sha256")).unlink()
    campaign = Soak()
    look_at_store(store, [*lines, lines[0]], campaign)
    for words in ("5 runs ended, but there are 4 reports", "is damaged", "left over: states/general-"):
        assert any(words in loss for loss in campaign.losses), words
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database:
        run = database.execute("SELECT run_uuid FROM metrics LIMIT 1").fetchone()[0]
        database.execute("DELETE FROM metrics WHERE rowid = (SELECT min(rowid) FROM metrics)")
        database.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (run,))
        database.commit()
    campaign = Soak(runs=whole.runs, trained=whole.trained, reused=whole.reused)
    look_at_mlflow(store.root, campaign)
    assert any("'RUNNING': 1" in loss for loss in campaign.losses)
    assert sum("MLflow has" in loss and "values" in loss for loss in campaign.losses) == 1


def test_growth_is_noticed() -> None:
    steady = [
        {"number": n, "report": f"r{n}", "seconds": 1.0, "handles": 25, "bytes": 8e8, "threads": 6} for n in range(50)
    ]
    growing = [{**line, "handles": 25 + n // 10, "bytes": 8e8 + 4e5 * n} for n, line in enumerate(steady)]
    for lines, losses in (([steady, steady], 0), ([steady, growing], 2)):
        campaign = Soak()
        growth_of(lines, campaign)
        judge_growth(campaign)
        assert len(campaign.losses) == losses
        assert campaign.runs == 100


def test_two_runs_in_the_same_second_keep_both_reports(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    report = RunReport(run="toy-1", recipe="toy", task=None, store="s", rows=(), seconds=1.0)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda n: store.write_report(report.model_copy(update={"seconds": n})), range(20)))
    assert {row.run for row in kept} == {"toy-1", *(f"toy-1-{n}" for n in range(2, 21))}
    assert [store.read_report(row.run).seconds for row in kept] == list(range(20))
