"""Services that disconnect or slow down during a run, and concurrent runs."""

from __future__ import annotations

import http.server
import itertools
import json
import signal
import sqlite3
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.flow import RunOptions, distill_flow
from pipeline.store.checkpoints import open_store, verify
from pipeline.tracking.session import TrackedRun
from schemas.results.manifest import RunReport
from stages.training.trainer import Trainer
from tests.support.command_line import Distill
from tests.support.processes import Process, forked, free_port, running
from tests.support.toys import toy_recipe_dict
from tests.torture.kills import visible, weights


def write_recipe(folder: Path, *, steps: int, stages: tuple[int, ...] = (0, 2)) -> Path:
    content: dict[str, Any] = toy_recipe_dict(folder / "in", steps=steps)
    content["stages"] = [content["stages"][number] for number in stages]
    content["teacher"]["task_model"]["training"]["duration"] = "40 steps"
    content["teacher"]["minimum_gain"] = 0
    content["execution"] |= {"state_minutes": 0.001, "log_every": 10}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@contextmanager
def prefect_server(home: Path) -> Iterator[tuple[Process, dict[str, str]]]:
    port = free_port()
    env = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # Each of its five retries would wait twice as long as the previous one.
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    start = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1")
    with running(*start, "--port", str(port), "--no-services", env=env) as server:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{env['PREFECT_API_URL']}/health", timeout=5).close()
                break
            except OSError:
                assert server.process.poll() is None, server.output
                time.sleep(0.5)
        yield server, env


def refused_start(folder: Path, home: Path) -> str:
    """Return the message of a run whose temporary Prefect server cannot start, and check its log's file."""
    recipe, temporary = write_recipe(folder, steps=1), folder / "temporary"
    temporary.mkdir()
    env = {"PREFECT_HOME": str(home), "TMPDIR": str(temporary)}
    with forked("run", recipe, "--store", folder / "store", env=env) as run:
        assert run.wait(280) == 1, run.output
        message = run.output
    assert message.count("error:") == 1
    assert "Traceback" not in message
    (log,) = temporary.glob("prefect-server-*.log")
    assert f"its log: {log}" in message
    assert "Traceback" in log.read_text(encoding="utf-8")
    return message


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_the_running_stage_is_finished_and_kept_when_prefects_server_disconnects(
    tmp_path: Path, prefect_home: Path, distill: Distill
) -> None:
    recipe, store = write_recipe(tmp_path, steps=100), tmp_path / "store"
    arguments = ("run", recipe, "--store", store)
    with prefect_server(prefect_home) as (server, env):
        with forked(*arguments, env=env) as run:
            run.wait_for("general: step")
            server.send(signal.SIGKILL)
            code = run.wait(280)
            printed = run.output
    assert code == 1
    assert "Traceback" not in printed
    assert printed.count("error:") == 1
    assert "Prefect's server went away" in printed
    assert "distill run" in printed.split("error:")[1]
    (general,) = (store / "checkpoints").glob("general-*")
    manifest = verify(general)
    code, _, printed = distill(*arguments)
    assert code == 0, printed
    assert "general: found in the store, reused" in printed
    assert verify(general) == manifest


@pytest.mark.slow
def test_a_database_of_a_newer_prefect_is_named_with_its_remedy(tmp_path: Path, prefect_home: Path) -> None:
    home = prefect_home
    with closing(sqlite3.connect(home / "prefect.db")) as database, database:
        assert database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'").rowcount == 1
    message = refused_start(tmp_path, home)
    assert "exit code 3; its database was migrated by a newer Prefect" in message
    assert f"upgrade prefect, or set PREFECT_HOME (now {home}) to another folder" in message
    assert "\n  alembic.util.exc.CommandError: Can't locate revision identified by 'ffffffffffff'\n" in message
    assert "Application startup failed" in message


def test_a_home_of_prefect_that_is_a_file_is_named_with_the_servers_exception(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("not a folder", encoding="utf-8")
    message = refused_start(tmp_path, home)
    assert f"check that PREFECT_HOME (now {home}) is a writable folder with free space" in message
    assert "sqlite3.OperationalError) unable to open database file" in message


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_of_two_concurrent_runs_one_trains_each_stage_and_the_other_reuses_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, store = write_recipe(tmp_path, steps=150), tmp_path / "store"
    options = RunOptions(store=str(store))

    def run() -> RunReport:
        return distill_flow(recipe=str(recipe), options=options)

    with ThreadPoolExecutor(2) as threads:
        reports = [future.result() for future in [threads.submit(run) for _ in range(2)]]
    printed = f"\n{capfd.readouterr().err}"
    for stage in ("teacher", "general", "task_adaptive"):
        assert printed.count(f"\n{stage}: step 0 of") == 1, printed
        assert printed.count(f"\n{stage}: found in the store, reused") == 1, printed
    assert "another process is making" in caplog.text
    assert len({report.run for report in reports}) == 2
    assert {verify(folder).stage for folder in visible(store)} == {"teacher", "general", "task_adaptive"}
    assert len(visible(store)) == 3
    assert len(open_store(store).list_reports()) == 2


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers every request after thirty seconds."""

    def do_GET(self) -> None:
        """Answer a request."""
        time.sleep(30)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def slow_address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_a_server_that_answers_after_thirty_seconds_does_not_slow_training(
    slow_address: str, tmp_path: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = write_recipe(tmp_path, steps=300, stages=(0,)), tmp_path / "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", slow_address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    waited: list[float] = []
    log = TrackedRun.log

    def timed(self: TrackedRun, step: int, metrics: Mapping[str, float]) -> None:
        began = time.perf_counter()
        log(self, step, metrics)
        waited.append(time.perf_counter() - began)

    monkeypatch.setattr(TrackedRun, "log", timed)
    code, _, err = distill("run", recipe, "--store", store)
    assert code == 0, err
    trained = sum(verify(folder).seconds for folder in visible(store))
    assert len(waited) > 30
    assert sum(waited) < 0.02 * trained, f"{sum(waited):.2f} s of {trained:.2f} s"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    for sent in (True, False):
        code, out, err = distill("sync", "--store", store, "--json")
        assert code == 0, err
        assert bool(json.loads(out)["runs"]) is sent
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        runs = database.execute("SELECT name FROM runs").fetchall()
        steps = database.execute(
            "SELECT step FROM metrics JOIN runs USING (run_uuid) "
            "WHERE name = 'general' AND key = 'train/loss' ORDER BY step"
        ).fetchall()
    assert sorted(name for (name,) in runs)[1:] == ["before", "general", "teacher"]
    assert steps == [(step,) for step in range(10, 301, 10)]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_a_jumping_clock_an_unusual_path_and_a_link_do_not_change_weights(
    tmp_path: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, steps=30)
    assert distill("run", recipe, "--store", tmp_path / "plain")[0] == 0
    real, link = tmp_path / "Lager 模型 é", tmp_path / "a link"
    real.mkdir()
    link.symlink_to(real, target_is_directory=True)
    jumps = itertools.cycle([0.0, 3 * 86400.0, -3 * 86400.0, 60.0])
    now, now_ns = time.time, time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + next(jumps))
        patch.setattr(time, "time_ns", lambda: now_ns() + int(next(jumps) * 1e9))
        code, _, err = distill("run", recipe, "--store", link / "Speicher")
    assert code == 0, err
    assert weights(real / "Speicher") == weights(tmp_path / "plain")
    code, _, err = distill("run", recipe, "--store", real / "Speicher")
    assert code == 0, err
    assert err.count("found in the store, reused") == 3


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_a_prefect_retry_resumes_from_the_last_state_to_the_same_weights(
    tmp_path: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, steps=60, stages=(2,))
    assert distill("run", recipe, "--store", tmp_path / "plain")[0] == 0
    hiccups: list[int] = []
    step = Trainer.train_step

    def once_interrupted(self: Trainer) -> None:
        if self.num_steps == 60 and self.state.step == 40 and not hiccups:
            hiccups.append(self.state.step)
            raise RuntimeError("something that may pass")
        step(self)

    monkeypatch.setattr(Trainer, "train_step", once_interrupted)
    code, _, err = distill("run", recipe, "--store", tmp_path / "again")
    assert code == 0, err
    assert hiccups == [40]
    assert err.count("task_adaptive: continuing from step") == 1
    assert weights(tmp_path / "again") == weights(tmp_path / "plain")
