"""MLflow during a flow run: one parent run, one child run per stage, all with the same metric names.

Tracking never decides anything and never stops a run: whatever the server does, every method returns. Points are
written to a local file first, and requests that cannot be sent are kept beside it (`run_files`). Runs are always named
by their id: MLflow's global "active run" and MLFLOW_RUN_ID are not used, since they would turn a child into its own
parent (mlflow issue 15713). MLflow is imported on first use.
"""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from pipeline.store.files import storage_errors
from pipeline.tracking import run_files
from pipeline.tracking.client import NOTE_TAG, clean, data_set_request, flat, sqlite_file
from pipeline.tracking.moved_runs import take_over
from pipeline.tracking.run_files import LOCAL, Outbox, PointFile, Request
from pipeline.tracking.server import PARENT_TAG, Server, deliver_all
from pipeline.tracking.worker import Worker
from schemas.core.credentials import without_credentials
from schemas.core.errors import Interrupted
from schemas.results.manifest import Manifest
from stages.storage.sealed_folder import make_folder, unfinished

log = logging.getLogger(__name__)

REUSED_TAG, TRAINED_BY_TAG = "distill.reused", "distill.trained_by"
REUSED = " (reused)"
"""Ends the names of runs of stages that were found in the store."""
_MOST_NOTE = 4800
_HURRY_SECONDS = 1.0


class TrackedRun:
    """One MLflow run and its local files; a `stages.ports.protocols.MetricSink`, and a context that ends the run.

    A store whose file system refuses raises StoreError; nothing else raises. A method that sends something besides
    points returns whether the server has it. What the server does not have is kept and sent when the run ends, at the
    end of a later run, or by `distill sync`, unless the server refuses it.
    """

    def __init__(self, worker: Worker, path: Path, header: Mapping[str, Any]) -> None:
        with storage_errors(path.parent):
            make_folder(path.parent)
        self._claim = run_files.claim(path, make=True)
        self._worker, self._file, self._outbox = worker, PointFile(path, header), Outbox(path)
        self.trained_by: str | None = None
        """MLflow's id of the run that trained a reused stage and has its curves; None for all other runs."""
        self.has_training = False
        """True if another process has trained the stage and stored its settings and curves in this run."""
        if self.run_id is not None:
            worker.watched.add(self._file)

    @property
    def points(self) -> Path:
        """The local file of points; its stem is the run's key."""
        return self._file.path

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while no server knows the run."""
        return run_files.server_run(self.points)

    @property
    def is_waiting(self) -> bool:
        """True while a request is kept until MLflow takes it."""
        return not self._outbox.is_empty

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log `metrics` at optimizer step `step`; a step that was logged before is not logged again."""
        if self._claim is None:  # another process was just sending what was kept
            self._claim = run_files.claim(self.points)
        try:
            self._file.append(step, metrics)
        except (TypeError, ValueError, OverflowError) as error:
            log.warning("metrics of step %s are not numbers and are not logged: %s", step, error)

    def set_tags(self, tags: Mapping[str, object]) -> bool:
        """Set tags, replacing older values."""
        return self._request(Request(kind="tags", values=clean(tags)))

    def describe(self, lines: Iterable[str]) -> bool:
        """Set the description, in Markdown; lines that MLflow has no room for are left out."""
        note = ""
        for line in lines:
            if len(note) + len(line) < _MOST_NOTE:
                note += f"{line}\n"
        return self.set_tags({NOTE_TAG: note})

    def save_view(self, state: str) -> bool:
        """Save a view of the experiment's page under the id of this run; see `views`."""
        return self._request(Request(kind="view", values={"state": state}))

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> bool:
        """Copy the files of `folder` to the run, below `artifact_path`; waits until it is done."""
        values = {} if artifact_path is None else {"path": artifact_path}
        return self._request(Request(kind="artifacts", values=values), folder)

    def log_model(self, request: Request, folder: Path) -> bool:
        """Log a model with the files of `folder`, as `logged_models.model_request` describes it; waits until done."""
        return self._request(request, folder)

    def log_file(self, content: str | bytes, artifact_file: str) -> bool:
        """Store a text, without credentials, or the bytes of a picture as an artifact."""
        data = without_credentials(content).encode("utf-8") if isinstance(content, str) else content
        # Beside the points, since the folder of temporary files may be full or small where the store is not.
        with storage_errors(self.points.parent), unfinished(self.points.parent) as folder:
            path = folder / artifact_file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return self.log_artifacts(folder)

    def log_dataset(self, name: str, digest: str, source: str) -> bool:
        """Record a data set as an input of the run; MLflow keeps the first 36 characters of the digest."""
        return self._request(data_set_request(name, digest, source))

    def _request(self, request: Request, files: Path | None = None) -> bool:
        run_id = self.run_id
        # While an older request waits, this one waits behind it: sent out of order it would be overwritten.
        if run_id is not None and self._outbox.is_empty:
            is_sent = self._worker.ask(request.kind, lambda server: server.send(run_id, request, files or Path()))
            if is_sent is not None:
                return is_sent
        self._outbox.keep(request, files)
        return False

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left and end the run as FINISHED, FAILED or KILLED; waits at most `patience` seconds."""
        self._file.end(status)
        self._worker.watched.discard(self._file)
        self._worker.ask("what was kept", lambda server: list(server.deliver(self._file)))
        self.release()

    def release(self) -> None:
        """Unlock the file for others, such as `distill sync`."""
        run_files.release(self._claim)
        self._claim = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        was_stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        self.finish("FINISHED" if error is None else "KILLED" if was_stopped else "FAILED")


class Tracking:
    """The MLflow runs of one flow run, in an experiment that is created if need be; without a server, local files.

    Args:
        uri: MLflow's address; credentials in it are used and never shown.
        experiment: name of the experiment.
        points: folder for the local files of points.
        artifacts: folder for the artifacts of a new experiment; None leaves the choice to the server.
        patience: longest wait for one answer, in seconds.
    """

    def __init__(
        self, uri: str, experiment: str, points: Path, artifacts: Path | None = None, patience: float = 60.0
    ) -> None:
        run_files.end_dead_runs(points)
        self._uri, self.experiment, self.points = uri, experiment, points
        self._runs: list[TrackedRun] = []
        self.experiment_id: str | None = None
        """MLflow's id of the experiment; None while no server could be reached."""
        self.worker = Worker(partial(Server, uri, experiment, points, artifacts), uri, points, patience)
        self._find_experiment()

    @property
    def is_of_store(self) -> bool:
        """True if MLflow is the store's own database, which moves with the store."""
        database = sqlite_file(self._uri)
        return database is not None and database.parent == self.points.parent

    def _find_experiment(self) -> None:
        if self.experiment_id is None:
            # On first use MLflow and SQLAlchemy disagree about deprecations; the caller waits meanwhile, so that
            # no warning of others is lost.
            with warnings.catch_warnings(action="ignore"):
                self.experiment_id = self.worker.ask("the experiment", Server.experiment)

    def start_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        parent: TrackedRun | None = None,
        resumed: str | None = None,
    ) -> TrackedRun:
        """Start a run, or continue the one that an interrupted process began.

        Args:
            name: name in MLflow.
            params: parameters; nested ones get dotted names.
            tags: tags; `mlflow.parentRunId` is added.
            parent: the run that this one is shown under.
            resumed: key of the run to continue; if the server no longer has it, a new one is started.
        """
        values = clean({**tags, **({PARENT_TAG: parent.points.stem} if parent else {})})
        header = {"name": name, "experiment": self.experiment, "params": flat(params), "tags": values}
        if resumed is not None and resumed.startswith(LOCAL):
            return self._resume_local(resumed, values)
        key = self._reopen(resumed, values) if resumed is not None else None
        if key is None:
            new_key = f"{LOCAL}{uuid.uuid4().hex}"
            self._find_experiment()
            if self.experiment_id is not None:
                # By the key a run is found again whose creation was answered too late.
                key = self.worker.ask("a run", lambda server: server.create_run(new_key, header))
            if key is None:
                # While the server is away, the points of an interrupted run still belong into its own file.
                key = resumed if resumed is not None and self._path(resumed).is_file() else new_key
        return self._track(key, header)

    def _reopen(self, run_id: str, tags: Mapping[str, str]) -> str | None:
        return self.worker.ask(f"to continue run {run_id}", lambda server: server.reopen(run_id, tags))

    def _resume_local(self, key: str, tags: Mapping[str, str]) -> TrackedRun:
        """Continue a run that began without a server, which creates it now if it is back."""
        run_id = self.worker.ask("a run", lambda server: server.run_of(self._path(key)))
        run = self._track(key, {})
        if run_id is None or self._reopen(run_id, tags) is None:
            run.set_tags(tags)
        return run

    def _track(self, key: str, header: Mapping[str, Any]) -> TrackedRun:
        run = TrackedRun(self.worker, self._path(key), header)
        self._runs.append(run)
        return run

    def _path(self, key: str) -> Path:
        return self.points / f"{key}.jsonl"

    def unfinished_run(self, digest: str) -> str | None:
        """Key of the newest local run that made the stage of that digest, if it has not FINISHED."""
        return self._own_run(digest)[1]

    def run_to_continue(self, digest: str, *, is_owner: bool) -> str | None:
        """Key of the run in which a stage goes on, of this machine or, on a server, of another; None without one.

        Args:
            digest: the stage's digest.
            is_owner: True if nobody else makes the stage now.
        """
        is_known, key = self._own_run(digest)
        if is_known or self.is_of_store:
            return key

        def job(server: Server) -> str | None:
            place = server.client, server.experiment(), self.points
            return take_over(*place, digest, reused_tag=REUSED_TAG, is_owner=is_owner)

        return self.worker.ask("the run of a stage that began elsewhere", job)

    def _own_run(self, digest: str) -> tuple[bool, str | None]:
        """Return whether a local run has made the stage of that digest, and the newest one's key if not FINISHED."""
        for path in sorted(self.points.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
            tags = run_files.read_header(path).get("tags", {})
            if tags.get("distill.digest") == digest and REUSED_TAG not in tags:
                return True, None if run_files.has_finished(path) else path.stem
        return False, None

    def reused_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        parent: TrackedRun | None,
        manifest: Manifest,
    ) -> TrackedRun:
        """Start the run of a stage found in the store; the caller finishes it.

        It has the stage's scores, and names the run that trained the stage. Curves are copied only if MLflow does not
        have that run. A run that trained the stage and did not come to its end, is continued.
        """
        made_by = manifest.mlflow_run_id or self.unfinished_run(manifest.digest)
        path = None if made_by is None else self._path(made_by)
        if path is not None and not path.is_file():
            path = None
        if path is not None and not run_files.has_finished(path):
            run = self.start_run(name, params, tags, parent=parent, resumed=made_by)
            run.log(manifest.steps, manifest.metrics)
            return run
        tags, trained_by = {**tags, REUSED_TAG: "true"}, self._kept_run(made_by, path)
        if trained_by is not None:
            tags[TRAINED_BY_TAG] = trained_by
        run = self.start_run(f"{name}{REUSED}", params, tags, parent=parent)
        run.trained_by = trained_by
        if trained_by is None:
            for point in run_files.read_points(path) if path is not None else ():
                run.log(point.step, point.metrics)
            run.log(manifest.steps, manifest.metrics)
        else:
            run.log(manifest.steps, {key: value for key, value in manifest.metrics.items() if key.startswith("eval/")})
        return run

    def continued_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        parent: TrackedRun | None,
        manifest: Manifest,
    ) -> TrackedRun:
        """Continue the run of a stage that was made elsewhere for this one; the caller finishes it.

        Where MLflow does not have it, because the other machine uses an MLflow of its own, a new run gets the scores.
        """
        run = self.start_run(name, params, tags, parent=parent, resumed=manifest.mlflow_run_id)
        run.has_training = manifest.mlflow_run_id is not None and run.run_id == manifest.mlflow_run_id
        if not run.has_training:
            run.log(manifest.steps, manifest.metrics)
        return run

    def _kept_run(self, key: str | None, path: Path | None) -> str | None:
        """MLflow's id of the run that trained a stage; None if MLflow does not have it, and never will."""
        run_id = key if path is None else run_files.server_run(path)
        if run_id is None or run_id.startswith(LOCAL):
            return None
        has_it = self.worker.ask("the run of a reused stage", lambda server: server.has_run(run_id))
        # While the server is away, a run whose points are here is taken for one that it has.
        return run_id if has_it or (has_it is None and path is not None) else None

    def send_kept(self) -> None:
        """Send what this run and earlier ones could not; waits at most `patience` seconds for it."""

        def job(server: Server) -> None:
            _, failure = deliver_all(server, self.points)
            if failure is not None:
                raise failure

        self.worker.ask("what was kept", job)

    def hurry(self) -> None:
        """Wait only briefly from now on, since the user asked to stop; what a server does not get is kept."""
        self.worker.patience = min(self.worker.patience, _HURRY_SECONDS)

    def close(self) -> None:
        """End the tracking thread; waits at most `patience` seconds for its current job."""
        self.worker.close()
        for run in self._runs:
            run.release()
