"""An MLflow server as the store's run files see it: their runs on it, and the delivery of what it does not have yet.

Methods of `Server` ask the server, so they may be slow, and raise what MLflow raises. A file's run is created once,
whoever asks and however often; points and requests are marked or removed as soon as the server has them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.process.settings import Settings
from pipeline.tracking import run_files
from pipeline.tracking.client import (
    Rejected,
    brief,
    create_run,
    experiment_id,
    follow_store,
    http_status,
    load_mlflow,
    make_database,
    refusals,
    send_params,
    send_points,
    send_request,
    send_tags,
    was_moved,
)
from pipeline.tracking.logged_models import send_model
from pipeline.tracking.moved_runs import went_on_elsewhere
from pipeline.tracking.run_files import LOCAL, Outbox, Point, PointFile, Request
from schemas.core.base import Frozen
from schemas.core.credentials import without_credentials

PARENT_TAG = "mlflow.parentRunId"
Complain = Callable[[str, Exception], None]
"""Called with a kind of request, and the reason, when the server refuses it for good."""
KEPT_AS_TAG = "distill.kept_as"
"""The run's local key, by which the run is found again if the answer to its creation was lost or late."""

_WITH_FILES = ("artifacts", "model")


class Amount(Frozen):
    """Numbers of a run's points, artifacts and notes that were sent, or are left to send."""

    points: int = 0
    """Log calls, each with the metrics of one step."""
    artifacts: int = 0
    """Pictures, texts, folders, models."""
    notes: int = 0
    """Tags, data sets, views, and the end of the run."""

    def __bool__(self) -> bool:
        return bool(self.points or self.artifacts or self.notes)

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            points=self.points + other.points,
            artifacts=self.artifacts + other.artifacts,
            notes=self.notes + other.notes,
        )

    def __str__(self) -> str:
        words = {"point": self.points, "artifact": self.artifacts, "note": self.notes}
        return ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for word, n in words.items() if n) or "nothing"


def unsent(path: Path) -> Amount:
    """Count what no server has of the run in `path`."""
    sent = run_files.read_sent(path)
    requests = Outbox(path).requests()
    artifacts = sum(kept.request.kind in _WITH_FILES for kept in requests)
    offset = int(sent.get("offset", 0))
    points = run_files.num_points(path, offset) if offset < path.stat().st_size else 0
    end = run_files.read_end(path)
    has_new_end = end is not None and end[1] != sent.get("ended")
    return Amount(points=points, artifacts=artifacts, notes=len(requests) - artifacts + has_new_end)


class Server:
    """MLflow at one address, for the run files in one folder.

    Args:
        uri: MLflow's address.
        experiment: name of the experiment of runs that name none.
        points: folder of the run files.
        artifacts: folder for the artifacts of a new experiment; None leaves the choice to the server.
        complain: called when the server refuses something.
    """

    def __init__(self, uri: str, experiment: str, points: Path, artifacts: Path | None, complain: Complain) -> None:
        self._uri, self._experiment, self._points = uri, experiment, points
        self._artifacts, self._complain = artifacts, complain
        self._experiments: dict[str, str] = {}
        mlflow = load_mlflow()
        make_database(uri)
        follow_store(uri, artifacts)
        self.client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def probe(self) -> None:
        """Ask the least there is to ask."""
        self.client.search_experiments(max_results=1)

    def experiment(self, name: str | None = None) -> str:
        """Id of the experiment of that name, or of the default one; created if need be."""
        name = name or self._experiment
        if name not in self._experiments:
            self._experiments[name] = experiment_id(self.client, self._uri, name, self._artifacts)
        return self._experiments[name]

    def create_run(self, key: str, header: Mapping[str, Any], began: int | None = None) -> str:
        """Create the run of a file's key and header, begun at `began` (milliseconds since 1970); return its id."""
        tags = {**self.with_parent(header.get("tags", {})), KEPT_AS_TAG: key}
        experiment = self.experiment(header.get("experiment"))
        run_id = create_run(self.client, experiment, str(header.get("name", key)), tags, began=began)
        send_params(self.client, run_id, header.get("params", {}))
        return run_id

    def reopen(self, run_id: str, tags: Mapping[str, str]) -> str:
        """Continue a run with newer tags; return its id."""
        self.client.update_run(run_id, status="RUNNING")
        send_tags(self.client, run_id, self.with_parent(tags))
        return run_id

    def has_run(self, run_id: str) -> bool:
        """Return whether the server has the run, and nobody has deleted it."""
        try:
            with refusals():
                return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except Rejected:
            return False

    def run_of(self, path: Path) -> str:
        """Id of the run of a file, which is created from its header if no server knew it."""
        if (run_id := run_files.server_run(path)) is not None:
            return run_id
        header = run_files.read_header(path)
        header["tags"] = self.with_parent(header.get("tags", {}))  # takes the same lock for the parent
        with FileLock(self._points / ".lock"):
            if (run_id := run_files.server_run(path)) is not None:
                return run_id  # another process was first
            # The answer to its creation may have been lost, or the process killed, before the id was noted.
            experiment = self.experiment(header.get("experiment"))
            earlier = self.client.search_runs([experiment], f"tags.`{KEPT_AS_TAG}` = '{path.stem}'")
            if earlier:
                run_id = str(earlier[0].info.run_id)
                send_params(self.client, run_id, header.get("params", {}))
            else:
                run_id = self.create_run(path.stem, header, run_files.read_start(path))
            run_files.note_sent(path, run_id=run_id)
        return run_id

    def with_parent(self, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags, with the server's id of a parent that is named by its local key."""
        parent = tags.get(PARENT_TAG, "")
        if not parent.startswith(LOCAL):
            return dict(tags)
        path = self._points / f"{parent}.jsonl"
        if path.is_file():
            return {**tags, PARENT_TAG: self.run_of(path)}
        return {name: value for name, value in tags.items() if name != PARENT_TAG}

    def deliver(self, file: PointFile) -> Iterator[Amount]:
        """Send everything that the server does not have of a run; yields what was sent, part by part."""
        path, run_id = file.path, self.run_of(file.path)
        if went_on_elsewhere(self.client, path, run_id):
            file.mark_sent(path.stat().st_size)
            run_files.note_sent(path, ended=(run_files.read_end(path) or ("", 0))[1])
        while not file.is_sent:
            points, offset = file.unsent()
            if points and self._accepts("some points", partial(send_points, self.client, run_id, points)):
                yield Amount(points=len(points))
            file.mark_sent(offset)
            if not points:
                break
        for kept in Outbox(path).requests():
            is_sent = self.send(run_id, kept.request, kept.files)
            kept.remove()
            is_artifact = kept.request.kind in _WITH_FILES
            yield Amount(artifacts=int(is_sent and is_artifact), notes=int(is_sent and not is_artifact))
        end = run_files.read_end(path)
        if end is not None and end[1] != run_files.read_sent(path).get("ended"):
            status, time = end
            is_sent = self._accepts("the run's end", lambda: self.client.set_terminated(run_id, status, time))
            run_files.note_sent(path, ended=time)
            yield Amount(notes=int(is_sent))

    def send_points(self, path: Path, points: list[Point]) -> None:
        """Send points of the file's run; raises Rejected when some values are refused."""
        send_points(self.client, self.run_of(path), points)

    def send(self, run_id: str, request: Request, files: Path) -> bool:
        """Send one request now; False when it is refused for good."""
        if request.kind == "tags":
            request = Request(kind="tags", values=self.with_parent(request.values))
        what = request.kind.replace("_", " ")
        if request.kind == "model":
            return self._accepts(what, lambda: send_model(self.client, run_id, request.values, files))
        return self._accepts(what, lambda: send_request(self.client, run_id, request, files))

    def _accepts(self, what: str, call: Callable[[], object]) -> bool:
        try:
            with refusals():
                call()
        except Rejected as error:
            self._complain(what, error)
            return False
        return True


class SyncedRun(Frozen):
    """A run of which something was kept, and what became of it."""

    name: str
    """Name of the run or of its stage."""
    key: str
    """Stem of its files in the store's `points/`."""
    run_id: str | None
    """MLflow's id; null while no server knows the run."""
    sent: Amount = Amount()
    """Sent now."""
    left: Amount = Amount()
    """Still kept in the store only."""
    reason: str | None = None
    """Why something is left."""


class SyncReport(Frozen):
    """The result of `distill sync`."""

    server: str
    """MLflow's address, without credentials."""
    store: str
    """The store's folder."""
    runs: tuple[SyncedRun, ...]
    """Every run of which something was kept."""
    refused: tuple[str, ...] = ()
    """Requests that the server refused for good, and why; they are no longer kept."""
    failure: str | None = None
    """Why the server could not be reached, or was lost on the way."""


def sync(settings: Settings, points: Path) -> SyncReport:
    """Send everything in the folder `points` that no server has yet; runs that no server knows are created."""
    run_files.end_dead_runs(points)
    uri, waiting = settings.tracking_uri, _waiting(points)
    address = without_credentials(uri)
    if uri.startswith("sqlite:") and not waiting and not was_moved(uri, settings.artifacts):
        return SyncReport(server=address, store=str(settings.store), runs=())
    complaints: list[str] = []
    error: Exception | None
    with warnings.catch_warnings(action="ignore"):  # MLflow and SQLAlchemy disagree about deprecations
        try:
            server = Server(
                uri,
                settings.experiment,
                points,
                settings.artifacts,
                lambda what, refusal: complaints.append(f"{what}: {brief(refusal)}"),
            )
            server.probe()
        except Exception as unreachable:  # drivers and transports raise what they like
            runs, error = [_kept(path) for path in waiting], unreachable
        else:
            runs, error = deliver_all(server, points)
    return SyncReport(
        server=address,
        store=str(settings.store),
        runs=tuple(runs),
        refused=tuple(complaints),
        failure=None if error is None else _failure(address, points, error),
    )


def _failure(address: str, points: Path, error: Exception) -> str:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and http_status(error) in (401, 403):
        reason = "requires other credentials"
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    else:
        reason = f"cannot be reached ({brief(error)})"
        remedy = "start the server, or name another with MLFLOW_TRACKING_URI,"
    return f"MLflow at {address} {reason}; what it does not have stays in {points}: {remedy} and run distill sync again"


def deliver_all(server: Server, points: Path) -> tuple[list[SyncedRun], Exception | None]:
    """Send everything kept in `points`, run after run, except runs that a living process is writing.

    Returns:
        Every run of which something was kept, and the failure that ended the delivery early.
    """
    runs: list[SyncedRun] = []
    failure: Exception | None = None
    for path in _waiting(points):
        if failure is not None:
            runs.append(_kept(path))
        elif (handle := run_files.claim(path)) is None:
            runs.append(_kept(path, reason="it is still running"))
        else:
            try:
                run, failure = _delivered(server, path)
                runs.append(run)
            finally:
                run_files.release(handle)
    return runs, failure


def _waiting(points: Path) -> list[Path]:
    return [path for path in sorted(points.glob("*.jsonl")) if unsent(path)]


def _delivered(server: Server, path: Path) -> tuple[SyncedRun, Exception | None]:
    sent = Amount()
    try:
        with refusals():
            run_id = server.run_of(path)
            if server.client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise Rejected(f"run {run_id} is deleted there")
        for part in server.deliver(PointFile(path)):
            sent += part
    except Rejected as error:
        return _kept(path, sent, f"MLflow refuses it: {brief(error)}"), None
    except run_files.UNREADABLE as error:
        # The fault of this file alone, which must not hold the others back.
        return _kept(path, sent, f"it cannot be read ({type(error).__name__})"), None
    except Exception as error:  # drivers and transports raise what they like
        return _kept(path, sent), error
    return _kept(path, sent), None


def _kept(path: Path, sent: Amount = Amount(), reason: str | None = None) -> SyncedRun:  # noqa: B008  (frozen)
    return SyncedRun(
        name=str(run_files.read_header(path).get("name", path.stem)),
        key=path.stem,
        run_id=run_files.server_run(path),
        sent=sent,
        left=unsent(path),
        reason=reason,
    )
