"""MLflow: one parent run per flow run, one child run per stage.

All children have the same metric names. Tracking never decides anything and never stops a run:
every call here returns, whatever the server does, and every point is in a local file first
(`tracking_points`). Runs are always named by their id: MLflow's global "active run" and
MLFLOW_RUN_ID are not used, since they would turn a child into its own parent (mlflow issue
15713). MLflow is imported on first use; the form of a model and resuming by run id are in
`tracking_model`.
"""

from __future__ import annotations

import json
import logging
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline import tracking_points as kept
from pipeline.settings import without_credentials
from pipeline.tracking_client import (
    MOST_TAG,
    clean,
    create_run,
    experiment_id,
    flat,
    load_mlflow,
    one_at_a_time,
    refusals,
    send_params,
    send_points,
)
from pipeline.tracking_points import Point, PointFile
from pipeline.tracking_worker import Worker

log = logging.getLogger(__name__)
T = TypeVar("T")

REUSED_TAG = "distill.reused"
CHECKPOINT_TAG = "distill.checkpoint"
_PARENT_TAG = "mlflow.parentRunId"
_LOCAL = "local-"  # begins the names of files whose runs no server knew when they began
_PATIENCE_SECONDS = 60.0
_MOST_DIGEST = 36


class ChildRun:
    """One MLflow run and its local file; a `stages.ports.MetricSink`. No method raises."""

    def __init__(self, tracking: Tracking, run_id: str | None, file: PointFile) -> None:
        self._tracking, self._file = tracking, file
        self.run_id = run_id
        """MLflow's id; None when the server could not be reached."""
        if run_id is not None:
            tracking.worker.watch(run_id, file)

    @property
    def points(self) -> Path:
        """The local file of this run's points."""
        return self._file.path

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note `metrics` at optimizer step `step`.

        A step that was logged before is not logged again.
        """
        try:
            self._file.append(step, metrics)
        except (TypeError, ValueError, OverflowError) as error:
            log.warning("metrics of step %s are no numbers and are not logged: %s", step, error)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Note parameters; nested ones by dotted names."""
        self._do("parameters", lambda client, run: send_params(client, run, params))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, replacing older values."""
        values = clean(tags, MOST_TAG)

        def send(client: Any, run: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run, tags=[RunTag(name, value) for name, value in values.items()])

        self._do("tags", send)

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> bool:
        """Copy the files of `folder` to the run; False when they did not get there.

        Waits until it is done.
        """
        return self._do(
            "artifacts", lambda client, run: client.log_artifacts(run, str(folder), artifact_path)
        )

    def log_dict(self, value: Mapping[str, Any], artifact_file: str) -> bool:
        """Keep a mapping as a JSON or YAML artifact, credentials taken out."""
        text = json.dumps(value, ensure_ascii=False, default=str)
        plain = json.loads(without_credentials(text))
        return self._do("artifacts", lambda client, run: client.log_dict(run, plain, artifact_file))

    def log_text(self, text: str, artifact_file: str) -> bool:
        """Keep a text as an artifact, credentials taken out."""
        plain = without_credentials(text)
        return self._do("artifacts", lambda client, run: client.log_text(run, plain, artifact_file))

    def log_picture(self, png: bytes, artifact_file: str) -> bool:
        """Keep a PNG as an artifact."""

        def send(client: Any, run: str) -> None:
            name = Path(artifact_file)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / name.name).write_bytes(png)
                inside = name.parent.as_posix()
                client.log_artifact(
                    run, str(Path(folder) / name.name), None if inside == "." else inside
                )

        return self._do("artifacts", send)

    def log_dataset(
        self, name: str, digest: str, num_rows: int | None, source: str, context: str
    ) -> bool:
        """Note a data set as an input of the run.

        Args:
            name: short name.
            digest: of its content; MLflow keeps the first 36 characters.
            num_rows: rows used; None when not known.
            source: where it comes from.
            context: what it is for, such as `training` or `evaluation`.
        """

        def send(client: Any, run: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name[:500],
                digest=digest[:_MOST_DIGEST],
                source_type="code",
                source=json.dumps({"uri": without_credentials(source)}),
                profile=json.dumps({"num_rows": num_rows}),
            )
            tags = [InputTag("mlflow.data.context", context)]
            client.log_inputs(run, [DatasetInput(dataset=dataset, tags=tags)])

        return self._do("data sets", send)

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left and close the run: FINISHED, FAILED or KILLED.

        Waits at most `patience` seconds.
        """
        self._file.end(status)
        if self.run_id is not None:
            self._tracking.worker.flush(self.run_id)
            self._do("the run's end", lambda client, run: client.set_terminated(run, status))
            self._tracking.worker.forget(self.run_id)

    def _do(self, what: str, send: Callable[[Any, str], None]) -> bool:
        run_id = self.run_id
        if run_id is None:
            return False

        def job(client: Any) -> bool:
            send(client, run_id)
            return True

        return self._tracking.ask(what, job) is True


class Tracking:
    """The runs of one flow run; made by `Tracking.open`. No method raises."""

    def __init__(self, uri: str, points: Path, *, patience: float) -> None:
        self._uri, self._points = uri, points
        self._made: Any = None
        self._experiment_id: str | None = None
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
        """Tracking with its experiment made, or one that keeps points locally without a server.

        Args:
            uri: MLflow's address; credentials in it are used and never shown.
            experiment: name of the experiment.
            points: folder for the local files of points.
            artifacts: where a new experiment's artifacts go; None leaves it to the server.
            patience: longest wait for one answer, in seconds.
        """
        tracking = cls(uri, points, patience=patience)
        tracking._experiment_id = tracking.ask(
            "the experiment", lambda client: experiment_id(client, uri, experiment, artifacts)
        )
        return tracking

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None when the server could not be reached."""
        return self._experiment_id

    def ask(self, what: str, job: Callable[[Any], T]) -> T | None:
        """The answer of `job(client)` in the tracking thread.

        None when the server has none to give.
        """

        def run() -> T:
            if self._experiment_id is not None:
                with refusals():
                    return job(self._client())
            # MLflow and SQLAlchemy disagree about deprecations on first use; the caller is waiting
            # meanwhile, so that nobody else's warnings are lost.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                client = self._client()
                with refusals():
                    return job(client)

        return self.worker.ask(what, run)

    def _client(self) -> Any:
        if self._made is None:
            mlflow = load_mlflow()
            with one_at_a_time(self._uri):
                self._made = mlflow.MlflowClient(tracking_uri=self._uri)
        return self._made

    def _send_points(self, run_id: str, points: list[Point]) -> None:
        client = self._client()
        with refusals():
            send_points(client, run_id, points)

    def parent_run(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, object]
    ) -> str | None:
        """Id of a new run for the whole flow run; None when the server cannot be reached."""
        return self._create(name, params, tags)

    def run(self, run_id: str | None, name: str = "run") -> ChildRun:
        """A handle on a run that exists, such as the parent.

        One that only keeps points for None.
        """
        return ChildRun(self, run_id, self._file(run_id, {"name": name}))

    def child_run(
        self,
        parent_id: str | None,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        resume_run_id: str | None = None,
    ) -> ChildRun:
        """A stage's run under `parent_id`, or the stage's earlier run gone on with.

        Args:
            parent_id: what `parent_run` returned.
            name: shown in MLflow; the stage's name.
            params: parameters, nested ones by dotted names.
            tags: tags; `mlflow.parentRunId` is added.
            resume_run_id: the run that an interrupted process began; a new one if it is gone.
        """
        under = {**tags, **({_PARENT_TAG: parent_id} if parent_id else {})}
        if resume_run_id is not None and resume_run_id.startswith(_LOCAL):
            return self._adopt(resume_run_id, under)
        run_id = self._reopen(resume_run_id, under) if resume_run_id else None
        if run_id is None:
            run_id = self._create(name, params, under)
        # While the server is down, an interrupted run's points still belong into its own file.
        header = {"name": name, "params": flat(params), "tags": clean(under, MOST_TAG)}
        local = resume_run_id if run_id is None and self._has_file(resume_run_id) else None
        return ChildRun(self, run_id or local, self._file(run_id or local, header))

    def reused_run(
        self,
        parent_id: str | None,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        step: int,
        metrics: Mapping[str, float],
        made_by: str | None = None,
    ) -> ChildRun:
        """A child run for a stage that was there already, with its numbers; finished by the caller.

        Args:
            parent_id: what `parent_run` returned.
            name: the stage's name.
            params: as for `child_run`.
            tags: as for `child_run`; `distill.reused` is added.
            step: optimizer steps of the stage.
            metrics: its last values.
            made_by: the run that trained it; its curves are copied if they are kept here.
        """
        run = self.child_run(parent_id, name, params, {**tags, REUSED_TAG: "true"})
        if self._has_file(made_by):
            for point in kept.read_points(self._points / f"{made_by}.jsonl"):
                run.log(point.step, point.metrics)
        run.log(step, metrics)
        return run

    def unfinished_run(self, tags: Mapping[str, str]) -> str | None:
        """Id of the newest run kept here that carries these tags and has not FINISHED.

        None when there is none.
        """
        found = sorted(
            self._points.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True
        )
        for path in found:
            had = kept.read_header(path).get("tags", {})
            wanted = all(had.get(name) == value for name, value in tags.items())
            if wanted and REUSED_TAG not in had:
                return path.stem if kept.read_end(path) != "FINISHED" else None
        return None

    def close(self) -> None:
        """End the tracking thread; waits at most `patience` seconds for what it is doing."""
        self.worker.close()

    def _create(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, object]
    ) -> str | None:
        experiment = self._experiment_id
        if experiment is None:
            return None
        return self.ask("a run", lambda client: create_run(client, experiment, name, params, tags))

    def _reopen(self, run_id: str, tags: Mapping[str, object]) -> str | None:
        def job(client: Any) -> str:
            from mlflow.entities import RunTag

            client.update_run(run_id, status="RUNNING")
            values = clean(tags, MOST_TAG)
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
            return run_id

        return self.ask(f"to go on with run {run_id}", job)

    def _adopt(self, key: str, tags: Mapping[str, object]) -> ChildRun:
        """A run that began while the server was away, made there now if the server is back."""
        file = self._file(key, {})
        known = kept.server_run(file.path)
        run_id = self._reopen(known, tags) if known else self.run_for(file)
        child = ChildRun(self, run_id, file)
        if run_id is not None and known is None:
            child.set_tags(tags)
        return child

    def run_for(self, file: PointFile) -> str | None:
        """The server's run for a local file, made now if it began while the server was away."""
        if not file.key.startswith(_LOCAL):
            return file.key
        if (known := kept.server_run(file.path)) is not None:
            return known
        header = kept.read_header(file.path)
        name = str(header.get("name", file.key))
        run_id = self._create(name, header.get("params", {}), header.get("tags", {}))
        if run_id is not None:
            file.mark_sent(0, run_id=run_id)
        return run_id

    def _has_file(self, run_id: str | None) -> bool:
        return run_id is not None and (self._points / f"{run_id}.jsonl").is_file()

    def _file(self, run_id: str | None, header: Mapping[str, Any]) -> PointFile:
        key = run_id or f"{_LOCAL}{uuid.uuid4().hex}"
        return PointFile(self._points / f"{key}.jsonl", header)
