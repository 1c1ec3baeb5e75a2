"""One run as the rest of the project sees it: what it is told reaches MLflow now, or is kept until it can."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.store.files import storage_errors
from pipeline.tracking import points as kept
from pipeline.tracking.client import MOST_TAG, clean, data_set_request
from pipeline.tracking.outbox import Outbox, Request
from pipeline.tracking.points import PointFile
from pipeline.tracking.server import Server
from pipeline.tracking.worker import Worker
from schemas.core.credentials import without_credentials
from stages.storage.sealed_folder import make_folder, unfinished

log = logging.getLogger(__name__)
T = TypeVar("T")


class Sender(Protocol):
    """What a run asks of the session that it is part of."""

    worker: Worker
    """The thread that sends points."""

    def ask(self, what: str, job: Callable[[Server], T]) -> T | None:
        """The answer of `job(server)`; None when the server has none to give."""
        ...


class TrackedRun:
    """One MLflow run and its local file; a `stages.ports.protocols.MetricSink`.

    Whatever a server does, no method raises. A store whose file system refuses is a StoreError, as it is everywhere.

    Of what is told beside the points a method says whether the server has it. What it does not have is kept beside the
    points and sent when the run ends, at the end of a later run, or by `distill sync`, unless the server refuses it.
    """

    def __init__(self, tracking: Sender, path: Path, header: Mapping[str, Any]) -> None:
        with storage_errors(path.parent):
            make_folder(path.parent)
        self._claim = kept.claim(path, make=True)
        self._tracking, self._file = tracking, PointFile(path, header)
        self._outbox = Outbox(path)
        if (run_id := self.run_id) is not None:
            tracking.worker.watch(run_id, self._file)

    @property
    def key(self) -> str:
        """Names the run here: MLflow's id, or a local name where no server knew the run when it began."""
        return self._file.key

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while no server knows the run."""
        return kept.server_run(self._file.path)

    @property
    def is_waiting(self) -> bool:
        """Whether something that it was told is kept until MLflow takes it."""
        return not self._outbox.is_empty()

    @property
    def points(self) -> Path:
        """The local file of this run's points."""
        return self._file.path

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note `metrics` at optimizer step `step`.

        A step that was logged before is not logged again.
        """
        if self._claim is None:  # somebody was just sending what it had kept
            self._claim = kept.claim(self._file.path)
        try:
            self._file.append(step, metrics)
        except (TypeError, ValueError, OverflowError) as error:
            log.warning("metrics of step %s are no numbers and are not logged: %s", step, error)

    def set_tags(self, tags: Mapping[str, object]) -> bool:
        """Set tags, replacing older values."""
        return self._tell(Request(kind="tags", values=clean(tags, MOST_TAG)))

    def log_artifacts(self, folder: Path, artifact_path: str | None = None) -> bool:
        """Copy the files of `folder` to the run, below `artifact_path`; waits until it is done."""
        values = {} if artifact_path is None else {"path": artifact_path}
        return self._tell(Request(kind="artifacts", values=values), folder)

    def log_text(self, text: str, artifact_file: str) -> bool:
        """Store a text as an artifact, credentials taken out."""
        return self._log_file(without_credentials(text).encode("utf-8"), artifact_file)

    def log_picture(self, png: bytes, artifact_file: str) -> bool:
        """Store a PNG as an artifact."""
        return self._log_file(png, artifact_file)

    def _log_file(self, content: bytes, artifact_file: str) -> bool:
        # Not in the folder of temporary files, which may be full or small where the store is not.
        place = self._file.path.parent
        with storage_errors(place), unfinished(place) as folder:
            path = folder / artifact_file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return self.log_artifacts(folder)

    def log_dataset(self, name: str, digest: str, num_rows: int | None, source: str, context: str) -> bool:
        """Note a data set as an input of the run.

        Args:
            name: short name.
            digest: of its content; MLflow keeps the first 36 characters.
            num_rows: rows used; None when not known.
            source: where it comes from.
            context: what it is for, such as `training` or `evaluation`.
        """
        return self._tell(data_set_request(name, digest, num_rows, source, context))

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is left and close the run: FINISHED, FAILED or KILLED.

        Waits at most `patience` seconds for points, and as long for what else is kept.
        """
        self._file.end(status)
        if (run_id := self.run_id) is not None:
            self._tracking.worker.flush(run_id)
            self._tracking.worker.forget(run_id)
        self._tracking.ask("what was kept", lambda server: list(server.deliver(self._file)))
        self.let_go()

    def let_go(self) -> None:
        """Leave the file to others, such as `distill sync`."""
        kept.release(self._claim)
        self._claim = None

    def _tell(self, request: Request, files: Path | None = None) -> bool:
        run_id = self.run_id
        # While something older waits, newer waits behind it: sent the other way round it would be overwritten.
        if run_id is not None and self._outbox.is_empty():
            taken = self._tracking.ask(request.kind, lambda server: server.send(run_id, request, files or Path()))
            if taken is not None:
                return taken
        self._outbox.keep(request, files)
        return False
