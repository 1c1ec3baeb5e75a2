"""What is said to MLflow's server, request by request; always with an explicit run id.

A request here may be slow or fail, so while something trains they are called in the tracking thread only
(`tracking_worker`).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.tracking.outbox import Request
from pipeline.tracking.points import Point
from pipeline.tracking.worker import Rejected, brief
from schemas.core.credentials import without_credentials
from stages.storage.sealed_folder import make_folder, sweep, sync, unfinished

KIND_TAG = "mlflow.experimentKind"
KIND = "custom_model_development"
CHECKPOINT_TAG = "distill.checkpoint"
"""Where a stage's checkpoint was made."""
MOST_TAG = 5000
"""Characters of a tag's value."""
_MOST_PARAM = 6000
_MOST_DIGEST = 36
_MOST_NAME = 250
_MOST_REFUSALS = 50
log = logging.getLogger(__name__)
_QUIET = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "urllib3.connectionpool")


def load_mlflow() -> Any:
    """The `mlflow` module, with defaults under which a dead server is noticed in seconds.

    Defaults only: what the user has set in the environment stays.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # Nothing leaves this machine but what the user asked for.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Where a run ends on a server MLflow prints its address to stdout, into the middle of our JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.ERROR))
    import mlflow

    return mlflow


def http_status(error: Any) -> int:
    """The HTTP status of an MlflowException; 500 when no server has answered."""
    return int(error.get_http_status_code())


def wants_login(error: Exception) -> bool:
    """Whether the server is there and does not take our credentials."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and http_status(error) in (401, 403)


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what MLflow refuses for good (a bad name, a missing run) into Rejected.

    Other failures pass.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        # 401, 403, 408 and 429 are the server's state and not the request's.
        if http_status(error) in (400, 404, 409, 413, 422):
            raise Rejected(str(error)) from error
        raise


def send_points(client: Any, run_id: str, points: list[Point]) -> None:
    """Send points in one request; where the server refuses some of their values, the others all the same.

    The same points sent twice are one, since their times are the same.

    Raises:
        Rejected: some values were refused, and why.
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


Sent = TypeVar("Sent")


def _send_all(values: list[Sent], send: Callable[[list[Sent]], object]) -> list[tuple[Sent, Rejected]]:
    """Send values together; where that is refused by halves, so that one does not keep the others back.

    Returns:
        What was refused by itself and why, and all that was left after many refusals: the fault is then not a value's.
    """
    refused: list[tuple[Sent, Rejected]] = []
    waiting, refusals_left = [values], _MOST_REFUSALS
    while waiting:
        some = waiting.pop()
        try:
            with refusals():
                send(some)
        except Rejected as error:
            refusals_left -= 1
            if len(some) == 1 or refusals_left < 0:
                refused += [(value, error) for value in some]
            else:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
    return refused


def safe_name(name: str) -> str:
    """A metric's or a parameter's name as MLflow takes it; one that is changed ends in six digits of its own.

    MLflow takes letters and digits of any script, `_`, `-`, `.`, `/` and blanks, at most 250 of them, and nothing
    that a file system would take for another name.
    """
    parts = [part if part.strip(".") else "_" for part in re.sub(r"[^\w/.\- ]", "_", name).split("/")]
    safe = "/".join(parts)
    if safe == name and len(name) <= _MOST_NAME:
        return name
    return f"{safe[: _MOST_NAME - 7]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"


def send_request(client: Any, run_id: str, request: Request, files: Path) -> None:
    """Send artifacts (the content of `files`), tags or a data set; a second time it changes nothing."""
    values = request.values
    match request.kind:
        case "artifacts":
            client.log_artifacts(run_id, str(files), values.get("path"))
        case "tags":
            send_tags(client, run_id, values)
        case "data_set":
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=values["name"],
                digest=values["digest"],
                source_type="code",
                source=values["source"],
                profile=values["profile"],
            )
            tags = [InputTag("mlflow.data.context", values["context"])]
            client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=tags)])


def data_set_request(name: str, digest: str, num_rows: int | None, source: str, context: str) -> Request:
    """The request that notes a data set as an input; MLflow keeps 36 characters of the digest."""
    values = {
        "name": name[:500],
        "digest": digest[:_MOST_DIGEST],
        "source": json.dumps({"uri": without_credentials(source)}),
        "profile": json.dumps({"num_rows": num_rows}),
        "context": context,
    }
    return Request(kind="data_set", values=values)


def send_tags(client: Any, run_id: str, tags: Mapping[str, object]) -> None:
    """Set tags, replacing older values."""
    from mlflow.entities import RunTag

    values = clean(tags, MOST_TAG)
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])


def create_run(client: Any, experiment: str, name: str, tags: Mapping[str, object], *, began: int | None = None) -> str:
    """Id of a new run with tags.

    Args:
        client: MLflow's.
        experiment: id of its experiment.
        name: shown in the UI.
        tags: its tags.
        began: milliseconds since 1970; None for now.
    """
    source = {"mlflow.user": _user(), "mlflow.source.name": "distill", "mlflow.source.type": "LOCAL"}
    run = client.create_run(experiment, start_time=began, tags=clean({**source, **tags}, MOST_TAG), run_name=name)
    # It names a file of the store, whoever the server is.
    if not is_run_id(str(run.info.run_id)):
        raise Rejected(f"the run's id is not one: {str(run.info.run_id)[:80]!r}")
    return str(run.info.run_id)


def is_run_id(text: str) -> bool:
    """Whether MLflow gives runs such ids."""
    return re.fullmatch(r"[A-Za-z0-9][\w\-]{0,255}", text, re.ASCII) is not None


def send_params(client: Any, run_id: str, params: Mapping[str, object]) -> None:
    """Send parameters, nested ones by dotted names; one that the server refuses is left out, and said."""
    from mlflow.entities import Param

    pairs = [Param(safe_name(name), value) for name, value in flat(params).items()]
    for start in range(0, len(pairs), 100):  # MLflow takes 100 in one request
        some = pairs[start : start + 100]
        for param, error in _send_all(some, lambda part: client.log_batch(run_id, params=part)):
            log.warning("MLflow refused the parameter %s: %s", param.key, brief(error))


def experiment_id(client: Any, uri: str, name: str, artifacts: Path | None) -> str:
    """Id of the experiment of that name, made or brought back if need be, its kind as a tag."""
    from mlflow.exceptions import MlflowException

    with one_at_a_time(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            place = artifacts.absolute().as_uri() if artifacts else None
            try:
                return str(client.create_experiment(name, place, tags={KIND_TAG: KIND}))
            except MlflowException:
                found = client.get_experiment_by_name(name)  # another process was first
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if KIND_TAG not in found.tags:
            client.set_experiment_tag(found.experiment_id, KIND_TAG, KIND)
        return str(found.experiment_id)


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that make the tables, or the experiment, of one fresh SQLite file at once would both fail."""
    path = sqlite_file(uri)
    if path is None:
        yield
        return
    from filelock import FileLock

    make_folder(path.parent)
    with FileLock(path.with_name(path.name + ".lock")):
        yield


def make_database(uri: str) -> None:
    """Make MLflow's SQLite file where there is none, in one step; any other address is left as it is.

    Its tables take seconds and many migrations; a process killed among them would leave a file that no MLflow can open.
    """
    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with one_at_a_time(uri):
        if path.exists():
            return
        sweep(path.parent)
        with unfinished(path.parent) as folder:
            made = folder / path.name
            store: Any = SqlAlchemyStore(f"sqlite:///{made}", str(path.with_name("mlruns")))  # type: ignore[no-untyped-call]
            store.engine.dispose()
            sync(made)
            os.replace(made, path)
        sync(path.parent)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None for any other address, and for a database in memory."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if name not in ("", ":memory:") else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "unknown"


def clean(values: Mapping[str, object], most: int) -> dict[str, str]:
    """The values as text of at most `most` characters, credentials taken out."""
    return {name: without_credentials(str(value))[:most] for name, value in values.items()}


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted names."""
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result |= clean({f"{prefix}{name}": value}, _MOST_PARAM)
    return result
