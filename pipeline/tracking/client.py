"""Requests to MLflow, each with an explicit run id, and the store's own SQLite database.

A request may be slow or fail, so while something trains it is made in the tracking thread only (`worker.Worker`).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from pipeline.tracking.run_files import Point, Request
from pipeline.tracking.views import RUNS_VIEW, THIS_EXPERIMENT, THIS_RUN, THIS_VIEW, VIEW_TAG, runs_view, view_address
from schemas.core.credentials import without_credentials
from stages.storage.sealed_folder import make_folder, sweep, sync, unfinished

CHECKPOINT_TAG = "distill.checkpoint"
"""Folder in which a stage's checkpoint was written."""
_MOST_TAG = 5000
"""Characters of a tag's value."""
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"
NOTE_TAG = "mlflow.note.content"
"""The description of a run or an experiment, in Markdown."""
_EXPERIMENT_NOTE = (
    "Runs of `distill`, with their stages below them. *Views* > `distill: runs` lists the runs with the scores of "
    "student and teacher; the description of each run links to its stages side by side."
)
_MOST_PARAM = 6000
_MOST_DIGEST = 36
_MOST_NAME = 250
_MOST_REFUSALS = 50
_DATABASE_SECONDS = 60.0
_QUIET = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "urllib3.connectionpool")
# Columns in which MLflow 3 keeps paths of artifacts, and our own tag.
_PATHS = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("tags", "value", f"AND key = '{CHECKPOINT_TAG}'"),
)
log = logging.getLogger(__name__)
Item = TypeVar("Item")


class Rejected(Exception):
    """Raised when the server refuses a request for good: sending it again would not help."""


def load_mlflow() -> Any:
    """Import `mlflow`, with defaults under which a dead server is noticed within seconds.

    Variables that the user has set in the environment stay.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # Nothing leaves this machine but what the user asked for.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # At the end of a run on a server MLflow prints its address to stdout, into the middle of our JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.ERROR))
    import mlflow

    return mlflow


def brief(error: Exception | str) -> str:
    """The error on one line of at most 200 characters, without credentials."""
    text = without_credentials(" ".join(str(error).split()))
    return text if len(text) <= 200 else text[:197] + "..."


def http_status(error: Any) -> int:
    """HTTP status of an MlflowException; 500 when no server answered."""
    return int(error.get_http_status_code())


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what MLflow refuses for good (a bad name, a missing run) into Rejected; other failures pass."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        # 401, 403, 408 and 429 are about the server's state and not about the request.
        if http_status(error) in (400, 404, 409, 413, 422):
            raise Rejected(str(error)) from error
        raise


def send_points(client: Any, run_id: str, points: list[Point]) -> None:
    """Send points in one request; if the server refuses some of their values, the others are sent all the same.

    Raises:
        Rejected: some values were refused; the message says which and why.
    """
    from mlflow.entities import Metric

    metrics = [
        Metric(safe_name(name), value, point.time, point.step)
        for point in points
        for name, value in point.metrics.items()
    ]
    refused = _send_all(metrics, lambda some: client.log_batch(run_id, metrics=some))
    if refused:
        names = ", ".join(sorted({metric.key for metric, _ in refused})[:3])
        raise Rejected(f"{len(refused)} of {len(metrics)} values ({names}): {refused[0][1]}")


def _send_all(items: list[Item], send: Callable[[list[Item]], object]) -> list[tuple[Item, Rejected]]:
    """Send items together, and by halves where that is refused, so that one does not hold the others back.

    Returns:
        The items refused one by one and why, and after many refusals all that are left: no single item is at fault.
    """
    refused: list[tuple[Item, Rejected]] = []
    waiting, refusals_left = [items], _MOST_REFUSALS
    while waiting:
        some = waiting.pop()
        try:
            with refusals():
                send(some)
        except Rejected as error:
            refusals_left -= 1
            if len(some) == 1 or refusals_left < 0:
                refused += [(item, error) for item in some]
            else:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
    return refused


def safe_name(name: str) -> str:
    """A name of a metric or parameter that MLflow accepts; a changed one ends in six digits that keep it unique.

    MLflow accepts letters and digits of any script, `_`, `-`, `.`, `/` and blanks, at most 250 characters, and no
    path that a file system would resolve to another one.
    """
    parts = [part if part.strip(".") else "_" for part in re.sub(r"[^\w/.\- ]", "_", name).split("/")]
    safe = "/".join(parts)
    if safe == name and len(name) <= _MOST_NAME:
        return name
    return f"{safe[: _MOST_NAME - 7]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"


def send_request(client: Any, run_id: str, request: Request, files: Path) -> None:
    """Send artifacts (the content of `files`), tags, a data set or a view; sending it again changes nothing."""
    values = request.values
    match request.kind:
        case "artifacts":
            client.log_artifacts(run_id, str(files), values.get("path"))
        case "tags":
            send_tags(client, run_id, values)
        case "data_set":
            from mlflow.entities import Dataset, DatasetInput, InputTag

            fields = {name: values[name] for name in ("name", "digest", "source", "profile")}
            tags = [InputTag("mlflow.data.context", values["context"])]
            client.log_inputs(run_id, [DatasetInput(dataset=Dataset(source_type="code", **fields), tags=tags)])
        case "view":
            experiment = client.get_run(run_id).info.experiment_id
            state = _with_ids(client, run_id, {"state": values["state"]})["state"]
            client.set_experiment_tag(experiment, f"{VIEW_TAG}{run_id}", state)


def _with_ids(client: Any, run_id: str, values: Mapping[str, str]) -> dict[str, str]:
    """The values, with the ids of the run and its experiment, and links made of them, for what stands for them."""
    values = {name: value.replace(THIS_RUN, run_id) for name, value in values.items()}
    if any(THIS_EXPERIMENT in value or THIS_VIEW in value for value in values.values()):
        experiment = str(client.get_run(run_id).info.experiment_id)
        link = view_address("", experiment, run_id)
        values = {
            name: value.replace(THIS_EXPERIMENT, experiment).replace(THIS_VIEW, link) for name, value in values.items()
        }
    return values


def data_set_request(name: str, digest: str, source: str) -> Request:
    """The request that records a data set as an input of training; MLflow keeps 36 characters of the digest."""
    values = {
        "name": name[:500],
        "digest": digest[:_MOST_DIGEST],
        "source": json.dumps({"uri": without_credentials(source)}),
        "profile": json.dumps({"num_rows": None}),
        "context": "training",
    }
    return Request(kind="data_set", values=values)


def send_tags(client: Any, run_id: str, tags: Mapping[str, object]) -> None:
    """Set tags, replacing older values."""
    from mlflow.entities import RunTag

    # The key of a view is no secret, but its name in an address looks like one.
    values = _with_ids(client, run_id, clean(tags))
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])


def create_run(client: Any, experiment: str, name: str, tags: Mapping[str, object], *, began: int | None = None) -> str:
    """Create a run in the experiment of that id, begun at `began` (milliseconds since 1970) or now; return its id."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    source = {"mlflow.user": user, "mlflow.source.name": "distill", "mlflow.source.type": "LOCAL"}
    run = client.create_run(experiment, start_time=began, tags=clean({**source, **tags}), run_name=name)
    run_id = str(run.info.run_id)
    if not is_run_id(run_id):  # it becomes the name of a file of the store, whoever the server is
        raise Rejected(f"the server answered with an invalid run id: {run_id[:80]!r}")
    return run_id


def is_run_id(text: str) -> bool:
    """Return whether the text has the form of MLflow's run ids."""
    return re.fullmatch(r"[A-Za-z0-9][\w\-]{0,255}", text, re.ASCII) is not None


def send_params(client: Any, run_id: str, params: Mapping[str, object]) -> None:
    """Send parameters, nested ones by dotted names; one that the server refuses is logged and left out."""
    from mlflow.entities import Param

    pairs = [Param(safe_name(name), value) for name, value in flat(params).items()]
    for start in range(0, len(pairs), 100):  # MLflow takes 100 in one request
        some = pairs[start : start + 100]
        for param, error in _send_all(some, lambda part: client.log_batch(run_id, params=part)):
            log.warning("MLflow refused the parameter %s: %s", param.key, brief(error))


def clean(values: Mapping[str, object], most: int = _MOST_TAG) -> dict[str, str]:
    """The values as text of at most `most` characters, without credentials."""
    return {name: without_credentials(str(value))[:most] for name, value in values.items()}


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested values as text by dotted names."""
    result: dict[str, str] = {}
    for name, value in values.items():
        nested = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        result |= clean({f"{prefix}{name}": value}, _MOST_PARAM) if nested is None else nested
    return result


def experiment_id(client: Any, uri: str, name: str, artifacts: Path | None) -> str:
    """Id of the experiment of that name, which is created or restored if need be and tagged with its kind."""
    from mlflow.exceptions import MlflowException

    with _one_at_a_time(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = artifacts.absolute().as_uri() if artifacts else None
            try:
                tags = {_KIND_TAG: _KIND, NOTE_TAG: _EXPERIMENT_NOTE, f"{VIEW_TAG}{RUNS_VIEW}": runs_view()}
                return str(client.create_experiment(name, location, tags=tags))
            except MlflowException:
                experiment = client.get_experiment_by_name(name)  # another process was first
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if _KIND_TAG not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KIND)
        if f"{VIEW_TAG}{RUNS_VIEW}" not in experiment.tags:  # what others have in the experiment stays as it is
            client.set_experiment_tag(experiment.experiment_id, f"{VIEW_TAG}{RUNS_VIEW}", runs_view())
        return str(experiment.experiment_id)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None for any other address, and for a database in memory."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if name not in ("", ":memory:") else None


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Serialise processes that would create tables or the experiment in one fresh SQLite file and then both fail."""
    path = sqlite_file(uri)
    if path is None:
        yield
        return
    make_folder(path.parent)
    with FileLock(path.with_name(path.name + ".lock")):
        yield


def make_database(uri: str) -> None:
    """Create MLflow's SQLite file where there is none, in one rename; any other address is left alone.

    Its tables take seconds and many migrations; a process killed meanwhile would leave a file that no MLflow can open.
    """
    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _one_at_a_time(uri):
        if path.exists():
            return
        sweep(path.parent)
        with unfinished(path.parent) as folder:
            fresh = folder / path.name
            store: Any = SqlAlchemyStore(f"sqlite:///{fresh}", str(path.with_name("mlruns")))  # type: ignore[no-untyped-call]
            store.engine.dispose()
            sync(fresh)
            os.replace(fresh, path)
        sync(path.parent)


def was_moved(uri: str, artifacts: Path | None) -> bool:
    """Return whether a store's own database leads to a folder where the store was before; reads only."""
    database = _store_database(uri, artifacts)
    if database is None or artifacts is None:
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return bool(_earlier_stores(connection, artifacts))
    except sqlite3.Error:
        return False


def follow_store(uri: str, artifacts: Path | None) -> None:
    """Replace the paths in a store's own database that lead to a folder where the store was before.

    MLflow keeps the absolute path of every run's artifacts; nothing else in a store depends on its location. Any other
    database is left alone.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    database = _store_database(uri, artifacts)
    if database is None or artifacts is None or not was_moved(uri, artifacts):
        return
    with _one_at_a_time(uri), closing(sqlite3.connect(database, timeout=_DATABASE_SECONDS)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for before in _earlier_stores(connection, artifacts):
            for old, new in ((before.as_uri(), artifacts.parent.as_uri()), (str(before), str(artifacts.parent))):
                for table, column, where in _PATHS:
                    if table in tables:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                            f"WHERE substr({column}, 1, ?) = ? {where}",
                            (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
                        )


def _store_database(uri: str, artifacts: Path | None) -> Path | None:
    database = sqlite_file(uri)
    is_of_store = database is not None and artifacts is not None and database.parent == artifacts.parent
    return database if is_of_store and database is not None and database.is_file() else None


def _earlier_stores(connection: sqlite3.Connection, artifacts: Path) -> set[Path]:
    """Folders above our experiments' artifacts, except the store's present folder under any name."""
    here = artifacts.parent.resolve()
    locations = connection.execute("SELECT artifact_location FROM experiments")
    paths = [Path(unquote(urlsplit(str(location)).path)) for (location,) in locations]
    return {path.parent for path in paths if path.name == artifacts.name and path.parent.resolve() != here}
