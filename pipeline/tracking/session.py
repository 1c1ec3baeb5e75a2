"""MLflow: one parent run per flow run, one child run per stage.

All children have the same metric names. Tracking never decides anything and never stops a run:
every call here returns, whatever the server does; every point is in a local file first
(`tracking_points`), and what else cannot be sent is kept beside it (`tracking_outbox`). Runs are
always named by their id: MLflow's global "active run" and MLFLOW_RUN_ID are not used, since they
would turn a child into its own parent (mlflow issue 15713). MLflow is imported on first use; the
form of a model and resuming by run id are in `tracking_model`.
"""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.tracking import points as kept
from pipeline.tracking.client import CHECKPOINT_TAG as CHECKPOINT_TAG
from pipeline.tracking.client import (
    MOST_TAG,
    clean,
    create_run,
    flat,
    refusals,
    send_params,
    send_points,
    send_tags,
    sqlite_file,
)
from pipeline.tracking.points import LOCAL, Point
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.server import KEPT_AS_TAG, PARENT_TAG, Server
from pipeline.tracking.sync import deliver_all
from pipeline.tracking.worker import Worker

log = logging.getLogger(__name__)
T = TypeVar("T")

REUSED_TAG = "distill.reused"
_PATIENCE_SECONDS = 60.0
_PROBE_SECONDS = 5.0
_HURRY_SECONDS = 1.0


class Tracking:
    """The runs of one flow run; made by `Tracking.open`. Whatever a server does, no method raises."""

    def __init__(self, uri: str, experiment: str, points: Path, *, artifacts: Path | None, patience: float) -> None:
        self._uri, self._experiment, self._points = uri, experiment, points
        self._artifacts = artifacts
        self._server: Server | None = None
        self._experiment_id: str | None = None
        self._runs: list[TrackedRun] = []
        self.worker = Worker(self._send_points, address=uri, kept_in=points, patience=patience)

    @classmethod
    def open(
        cls,
        uri: str,
        experiment: str,
        points: Path,
        *,
        artifacts: Path | None = None,
        patience: float = _PATIENCE_SECONDS,
    ) -> Tracking:
        """Tracking with its experiment made, or one that keeps everything locally without a server.

        Args:
            uri: MLflow's address; credentials in it are used and never shown.
            experiment: name of the experiment.
            points: folder for the local files of points.
            artifacts: where a new experiment's artifacts go; None leaves it to the server.
            patience: longest wait for one answer, in seconds.
        """
        kept.end_dead_runs(points)
        tracking = cls(uri, experiment, points, artifacts=artifacts, patience=patience)
        tracking._find_experiment()
        return tracking

    @property
    def points(self) -> Path:
        """Folder of the local files of points."""
        return self._points

    @property
    def is_of_store(self) -> bool:
        """Whether MLflow is the store's own database, which goes where the store goes."""
        database = sqlite_file(self._uri)
        return database is not None and database.parent == self._points.parent

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None while no server could be reached."""
        return self._experiment_id

    def _find_experiment(self) -> str | None:
        if self._experiment_id is None:
            self._experiment_id = self.ask("the experiment", lambda server: server.experiment())
        return self._experiment_id

    def ask(self, what: str, job: Callable[[Server], T]) -> T | None:
        """The answer of `job(server)` in the tracking thread.

        None when the server has none to give.
        """
        if self.worker.doubtful:
            # What it is asked may take long; whether it is there at all does not, and a server
            # that hangs must not hold up every stage anew.
            probe = partial(self._do, Server.probe)
            self.worker.ask("whether it is back", probe, min(self.worker.patience, _PROBE_SECONDS))
        return self.worker.ask(what, partial(self._do, job))

    def _do(self, job: Callable[[Server], T]) -> T:
        if self._experiment_id is not None:
            with refusals():
                return job(self._connected())
        # MLflow and SQLAlchemy disagree about deprecations on first use; the caller is waiting
        # meanwhile, so that nobody else's warnings are lost.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = self._connected()
            with refusals():
                return job(server)

    def _connected(self) -> Server:
        if self._server is None:
            self._server = Server(
                self._uri, self._experiment, self._points, artifacts=self._artifacts, complain=self.worker.complain
            )
        return self._server

    def _send_points(self, run_id: str, points: list[Point]) -> None:
        server = self._connected()
        with refusals():
            send_points(server.client, run_id, points)

    def parent_run(self, name: str, params: Mapping[str, object], tags: Mapping[str, object]) -> TrackedRun:
        """A new run for the whole flow run."""
        key = _local_key()
        return self._open_run(self._create(name, params, tags, key) or key, name, params, tags)

    def child_run(
        self,
        parent: TrackedRun | None,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        resume_run_id: str | None = None,
    ) -> TrackedRun:
        """A stage's run under `parent`, or the stage's earlier run gone on with.

        Args:
            parent: what `parent_run` returned.
            name: shown in MLflow; the stage's name.
            params: parameters, nested ones by dotted names.
            tags: tags; `mlflow.parentRunId` is added.
            resume_run_id: the run that an interrupted process began; a new one if it is gone.
        """
        under = {**tags, **({PARENT_TAG: parent.key} if parent else {})}
        if resume_run_id is not None and resume_run_id.startswith(LOCAL):
            return self._adopt(resume_run_id, under)
        run_id = self._reopen(resume_run_id, under) if resume_run_id else None
        key = _local_key()
        if run_id is None:
            run_id = self._create(name, params, under, key)
        # While the server is down, an interrupted run's points still belong into its own file.
        local = resume_run_id if run_id is None and self._has_file(resume_run_id) else None
        return self._open_run(run_id or local or key, name, params, under)

    def reused_run(
        self,
        parent: TrackedRun | None,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        step: int,
        metrics: Mapping[str, float],
        made_by: str | None = None,
    ) -> TrackedRun:
        """A child run for a stage that was there already, with its numbers; finished by the caller.

        Args:
            parent: what `parent_run` returned.
            name: the stage's name.
            params: as for `child_run`.
            tags: as for `child_run`; `distill.reused` is added.
            step: optimizer steps of the stage.
            metrics: its last values.
            made_by: the run that trained it; its curves are copied if they are kept here.
        """
        run = self.child_run(parent, name, params, {**tags, REUSED_TAG: "true"})
        if self._has_file(made_by):
            for point in kept.read_points(self._points / f"{made_by}.jsonl"):
                run.log(point.step, point.metrics)
        run.log(step, metrics)
        return run

    def begun_run(self, made_by: str | None, digest: str) -> str | None:
        """Key of the run that made a stage, if it is kept here and did not come to say all of it; else None.

        Args:
            made_by: MLflow's id of it; None where no server knew it.
            digest: the stage's.
        """
        if made_by is None:
            return self.unfinished_run({"distill.digest": digest})
        path = self._points / f"{made_by}.jsonl"
        return made_by if path.is_file() and not kept.has_finished(path) else None

    def unfinished_run(self, tags: Mapping[str, str]) -> str | None:
        """Key of the newest run kept here that carries these tags and has not FINISHED.

        None when there is none.
        """
        found = sorted(self._points.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in found:
            had = kept.read_header(path).get("tags", {})
            wanted = all(had.get(name) == value for name, value in tags.items())
            if wanted and REUSED_TAG not in had:
                return None if kept.has_finished(path) else path.stem
        return None

    def send_kept(self) -> None:
        """Send what this run and earlier ones could not; waits at most `patience` seconds for it."""

        def job(server: Server) -> None:
            _, failure = deliver_all(server, self._points)
            if failure is not None:
                raise failure

        self.ask("what was kept", job)

    def hurry(self) -> None:
        """Wait only briefly from now on, since somebody asked to stop; what a server does not get is kept here."""
        self.worker.patience = min(self.worker.patience, _HURRY_SECONDS)

    def close(self) -> None:
        """End the tracking thread; waits at most `patience` seconds for what it is doing."""
        self.worker.close()
        for run in self._runs:
            run.let_go()

    def _create(self, name: str, params: Mapping[str, object], tags: Mapping[str, object], key: str) -> str | None:
        experiment = self._find_experiment()
        if experiment is None:
            return None

        def job(server: Server) -> str:
            # An answer that comes too late for us must not leave a second run: by its key it is found again.
            under = {**server.with_parent(clean(tags, MOST_TAG)), KEPT_AS_TAG: key}
            run_id = create_run(server.client, experiment, name, under)
            send_params(server.client, run_id, params)
            return run_id

        return self.ask("a run", job)

    def _reopen(self, run_id: str, tags: Mapping[str, object]) -> str | None:
        def job(server: Server) -> str:
            server.client.update_run(run_id, status="RUNNING")
            send_tags(server.client, run_id, server.with_parent(clean(tags, MOST_TAG)))
            return run_id

        return self.ask(f"to go on with run {run_id}", job)

    def _adopt(self, key: str, tags: Mapping[str, object]) -> TrackedRun:
        """A run that began while the server was away, made there now if the server is back."""
        path = self._points / f"{key}.jsonl"
        run_id = self.ask("a run", lambda server: server.run_of(path))
        run = self._track(key, {})
        if run_id is None or self._reopen(run_id, tags) is None:
            run.set_tags(tags)
        return run

    def _open_run(self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, object]) -> TrackedRun:
        header = {"name": name, "experiment": self._experiment, "params": flat(params), "tags": clean(tags, MOST_TAG)}
        return self._track(key, header)

    def _track(self, key: str, header: Mapping[str, Any]) -> TrackedRun:
        run = TrackedRun(self, self._points / f"{key}.jsonl", header)
        self._runs.append(run)
        return run

    def _has_file(self, run_id: str | None) -> bool:
        return run_id is not None and (self._points / f"{run_id}.jsonl").is_file()


def _local_key() -> str:
    """Names a run here for as long as no server has named it."""
    return f"{LOCAL}{uuid.uuid4().hex}"
