"""An MLflow server as the local files see it: their runs, found or made there, and all that it does not have yet.

Every method asks the server, so it may be slow, and raises what MLflow raises. Here a file's run is made once, whoever
asks and however often; points and requests are marked or removed as soon as the server has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.tracking import points as kept
from pipeline.tracking.client import (
    create_run,
    experiment_id,
    load_mlflow,
    make_database,
    refusals,
    send_params,
    send_points,
    send_request,
)
from pipeline.tracking.moved_store import lead_to_store
from pipeline.tracking.outbox import Outbox, Request
from pipeline.tracking.points import LOCAL, Point, PointFile
from pipeline.tracking.worker import Rejected
from schemas.core.base import Frozen

PARENT_TAG = "mlflow.parentRunId"
KEPT_AS_TAG = "distill.kept_as"
"""A run carries its local name, by which it is found again where the answer to its making was lost or late."""


class Amount(Frozen):
    """What was sent of a run, or is left."""

    points: int = 0
    """Log calls, each with the metrics of one step."""
    artifacts: int = 0
    """Pictures, texts, folders."""
    notes: int = 0
    """Tags, data sets, and how the run ended."""

    def __bool__(self) -> bool:
        return bool(self.points or self.artifacts or self.notes)

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            points=self.points + other.points,
            artifacts=self.artifacts + other.artifacts,
            notes=self.notes + other.notes,
        )


def unsent(path: Path) -> Amount:
    """What no server has of the run in `path`; reads only what must be read."""
    sent = kept.read_sent(path)
    parcels = Outbox(path).parcels()
    artifacts = sum(parcel.request.kind == "artifacts" for parcel in parcels)
    offset = int(sent.get("offset", 0))
    points = kept.num_points(path, offset) if offset < path.stat().st_size else 0
    end = kept.read_end(path)
    ended = end is not None and end[1] != sent.get("ended")
    return Amount(points=points, artifacts=artifacts, notes=len(parcels) - artifacts + ended)


class Server:
    """MLflow at one address, for the files in one folder."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        points: Path,
        *,
        artifacts: Path | None,
        complain: Callable[[str, Exception], None],
    ) -> None:
        self._uri, self._experiment, self._points = uri, experiment, points
        self._artifacts, self._complain = artifacts, complain
        self._experiments: dict[str, str] = {}
        mlflow = load_mlflow()
        make_database(uri)
        lead_to_store(uri, artifacts)
        self.client: Any = mlflow.MlflowClient(tracking_uri=uri)

    def probe(self) -> None:
        """Ask the least there is to ask."""
        self.client.search_experiments(max_results=1)

    def experiment(self, name: str | None = None) -> str:
        """Id of the experiment of that name, or of the usual one; made if need be."""
        name = name or self._experiment
        if name not in self._experiments:
            self._experiments[name] = experiment_id(self.client, self._uri, name, self._artifacts)
        return self._experiments[name]

    def run_of(self, path: Path) -> str:
        """Id of the run of a file, which is made from its header if no server knew it."""
        if (known := kept.server_run(path)) is not None:
            return known
        header = kept.read_header(path)
        tags = self.with_parent(header.get("tags", {}))
        with FileLock(self._points / ".lock"):
            if (known := kept.server_run(path)) is not None:
                return known  # another process was first
            experiment = self.experiment(header.get("experiment"))
            run_id = self._made_before(experiment, path.stem) or create_run(
                self.client,
                experiment,
                str(header.get("name", path.stem)),
                {**tags, KEPT_AS_TAG: path.stem},
                began=kept.read_start(path),
            )
            send_params(self.client, run_id, header.get("params", {}))
            kept.note_sent(path, run_id=run_id)
        return run_id

    def _made_before(self, experiment: str, key: str) -> str | None:
        # Its answer may have been lost, or the process killed, before the id was noted.
        found = self.client.search_runs([experiment], f"tags.`{KEPT_AS_TAG}` = '{key}'")
        return str(found[0].info.run_id) if found else None

    def with_parent(self, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags with the server's id of a parent that was first kept here alone."""
        parent = tags.get(PARENT_TAG, "")
        if not parent.startswith(LOCAL):
            return dict(tags)
        path = self._points / f"{parent}.jsonl"
        if path.is_file():
            return {**tags, PARENT_TAG: self.run_of(path)}
        return {name: value for name, value in tags.items() if name != PARENT_TAG}

    def knows(self, run_id: str) -> None:
        """Make sure that points for this run would be taken.

        Raises:
            Rejected: there is no such run, or it is deleted.
        """
        with refusals():
            if self.client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise Rejected(f"run {run_id} is deleted there")

    def deliver(self, file: PointFile) -> Iterator[Amount]:
        """Send everything that the server does not have of a run; yields what was sent, part by part."""
        run_id = self.run_of(file.path)
        while not file.all_sent():
            points, offset = file.unsent()
            yield Amount(points=len(points) if self._send_points(run_id, points) else 0)
            file.mark_sent(offset)
            if not points:
                break
        for parcel in Outbox(file.path).parcels():
            taken = self.send(run_id, parcel.request, parcel.files)
            parcel.remove()
            artifact = parcel.request.kind == "artifacts"
            yield Amount(artifacts=int(taken and artifact), notes=int(taken and not artifact))
        yield Amount(notes=int(self._send_end(run_id, file.path)))

    def _send_points(self, run_id: str, points: list[Point]) -> bool:
        return bool(points) and self._taken("some points", lambda: send_points(self.client, run_id, points))

    def send(self, run_id: str, request: Request, files: Path) -> bool:
        """Send one request now; False when it is refused, so that asking again would not help."""
        if request.kind == "tags":
            request = Request(kind="tags", values=self.with_parent(request.values))
        what = request.kind.replace("_", " ")
        return self._taken(what, lambda: send_request(self.client, run_id, request, files))

    def _send_end(self, run_id: str, path: Path) -> bool:
        end = kept.read_end(path)
        if end is None or end[1] == kept.read_sent(path).get("ended"):
            return False
        status, time = end
        taken = self._taken("the run's end", lambda: self.client.set_terminated(run_id, status, time))
        kept.note_sent(path, ended=time)
        return taken

    def _taken(self, what: str, call: Callable[[], object]) -> bool:
        try:
            with refusals():
                call()
        except Rejected as error:
            self._complain(what, error)
            return False
        return True
