"""Students and checkpoints in MLflow: stored once per stage, and found again from the id of a run.

A student is stored as a model in MLflow's own form, a checkpoint on servers that several machines share: at the end of
its stage or, if that failed, when the stage is next reused. A run names its stage and the stage's digest, so its
checkpoint is looked for in the store at hand, in the folder where it was written, in the store that the database
belongs to, and at last among the run's artifacts, from which it is copied into the store at hand.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipeline.store.checkpoints import CheckpointStore, verify
from pipeline.store.files import disk_errors, storage_errors
from pipeline.tracking import run_files
from pipeline.tracking.client import CHECKPOINT_TAG, brief, http_status, is_run_id, load_mlflow, sqlite_file
from pipeline.tracking.logged_models import model_request
from pipeline.tracking.mlflow_form import Example, save_mlflow_model
from pipeline.tracking.run_files import Outbox, Point
from pipeline.tracking.server import Server
from pipeline.tracking.session import REUSED, REUSED_TAG, TrackedRun, Tracking
from schemas.core.credentials import without_credentials
from schemas.core.errors import CheckpointError, DistillError
from schemas.results.manifest import Manifest
from stages.storage.sealed_folder import unfinished

log = logging.getLogger(__name__)
T = TypeVar("T")

STUDENT, CHECKPOINT = "model", "checkpoint"
"""Names of the two artifacts."""
STAGE_TAG, DIGEST_TAG = "distill.stage", "distill.digest"
STORED_TAG = "distill.stored."
"""Followed by an artifact's name: set on a run once all of the artifact is there."""
_MOST_RUNS = 100


def log_student(model_folder: Path, run: TrackedRun, digest: str, example: Example | None = None) -> None:
    """Log a student as a model of its stage's run, with the run's parameters, its tags, and its scores so far.

    Files on the way are written into the store, since the folder of temporary files may be full. Any failure but the
    store's disk is logged: the checkpoint is whole, and the student is stored when it is next reused.

    Args:
        model_folder: the student's transformers folder.
        run: the run of its stage.
        digest: the stage's.
        example: a real input; None for none.

    Raises:
        StoreError: the store's file system refused.
    """
    folder, header = run.points.parent, run_files.read_header(run.points)
    tags = {name: value for name, value in header.get("tags", {}).items() if name.startswith("distill.")}
    request = model_request(
        str(header.get("name", STUDENT)).removesuffix(REUSED),
        STUDENT,
        digest,
        tags=tags,
        params=header.get("params", {}),
        scores=_scores(run.points),
    )
    try:
        with disk_errors(folder), unfinished(folder) as scratch:
            save_mlflow_model(model_folder, scratch / STUDENT, example)
            _mark_stored(run, STUDENT, is_sent=run.log_model(request, scratch / STUDENT))
    except DistillError:
        raise
    except Exception as error:  # MLflow and transformers raise what they like
        log.warning(
            "the student could not be put into MLflow's own form (%s: %s); its checkpoint %s is whole, and the next "
            "run that reuses it tries again",
            type(error).__name__,
            brief(error),
            model_folder.parent,
        )


def log_checkpoint(folder: Path, run: TrackedRun) -> None:
    """Store a checkpoint among the artifacts of its stage's run, so that other machines can continue from it."""
    _mark_stored(run, CHECKPOINT, is_sent=run.log_artifacts(folder, CHECKPOINT))


def _mark_stored(run: TrackedRun, artifact: str, *, is_sent: bool) -> None:
    if is_sent or run.is_waiting:  # otherwise MLflow refused it
        run.set_tags({f"{STORED_TAG}{artifact}": "true"})


def _scores(points: Path) -> list[Point]:
    """Return the newest judged scores of a run, as it logged them."""
    newest: dict[str, Point] = {}
    for point in run_files.read_points(points):
        newest |= {name: point for name in point.metrics if name.startswith("eval/")}
    return [Point(point.step, point.time, {name: point.metrics[name]}) for name, point in newest.items()]


def is_stored(tracking: Tracking, stage: Manifest, artifact: str) -> bool:
    """Return whether MLflow has the artifact `model` or `checkpoint` of a stage, or it is kept for MLflow.

    While the server cannot be asked, the run files in the store decide.
    """
    if stage.mlflow_run_id is not None:
        path = tracking.points / f"{stage.mlflow_run_id}.jsonl"
        runs = [path] if path.is_file() else []
    else:
        runs = run_files.runs_tagged(tracking.points, DIGEST_TAG, stage.digest)
    waiting = (kept.request for path in runs for kept in Outbox(path).requests())
    if any(request.kind in ("artifacts", "model") and request.values.get("path") == artifact for request in waiting):
        return True
    experiment, answer = tracking.experiment_id, None
    if experiment is not None:
        answer = tracking.worker.ask(f"the {artifact}", lambda server: _has(server, experiment, stage.digest, artifact))
    return any(run_files.has_finished(path) for path in runs) if answer is None else answer


def runs_of_stage(client: Any, experiment: str, digest: str) -> list[Any]:
    """Return MLflow's runs of the stage of that digest, the newest first."""
    return list(client.search_runs([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'", max_results=_MOST_RUNS))


def _has(server: Server, experiment: str, digest: str, artifact: str) -> bool:
    with warnings.catch_warnings(action="ignore"):  # MLflow and SQLAlchemy disagree about deprecations
        runs = runs_of_stage(server.client, experiment, digest)
    if any(f"{STORED_TAG}{artifact}" in run.data.tags for run in runs):
        return True
    # Versions that set no such tag stored the artifact before they ended the run that had made it.
    return any(
        run.info.status == "FINISHED"
        and REUSED_TAG not in run.data.tags
        and server.client.list_artifacts(run.info.run_id, artifact)
        for run in runs
    )


def resolve_run(run_id: str, *, uri: str, store: CheckpointStore) -> Path:
    """The folder of the checkpoint that a stage's run made or reused, every file verified.

    Args:
        run_id: MLflow's id of a stage's (child) run.
        uri: MLflow's address.
        store: searched first; a downloaded checkpoint becomes part of it.

    Raises:
        CheckpointError: no such run, no whole checkpoint of it anywhere, or a server that cannot be reached.
        StoreError: there is no room for the download.
    """
    name = f"mlflow:{run_id[:80]}"
    if not is_run_id(run_id):
        raise CheckpointError(f"{name!r} is not the id of a run; copy it from the stage's page in MLflow")
    mlflow = load_mlflow()
    client = _ask(name, uri, lambda: mlflow.MlflowClient(tracking_uri=uri))
    run = _ask(name, uri, lambda: client.get_run(run_id))
    tags: dict[str, str] = run.data.tags
    if not {STAGE_TAG, DIGEST_TAG} <= set(tags):
        raise CheckpointError(
            f"{name} has no checkpoint; give the id of a stage's (child) run, or a checkpoint's folder"
        )
    problems = []
    for folder in _local_folders(tags, uri, store):
        try:
            _verify(folder, tags)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return folder
    holder = _ask(name, uri, lambda: next(_runs_with_checkpoint(client, run), None))
    if holder is not None:
        parent = store.root / "checkpoints"
        with storage_errors(parent), unfinished(parent) as scratch:
            _ask(name, uri, lambda: client.download_artifacts(holder, CHECKPOINT, str(scratch)))
            manifest = _verify(scratch / CHECKPOINT, tags)
            return store.writer(manifest.stage, manifest.digest).adopt(scratch / CHECKPOINT)
    searched = "; ".join(problems) or "none of its stage is in the store"
    origin = f" (it was made in {tags[CHECKPOINT_TAG]})" if CHECKPOINT_TAG in tags else ""
    raise CheckpointError(
        f"{name}: no checkpoint of {tags[STAGE_TAG]} {tags[DIGEST_TAG][:16]} is available{origin}: {searched}, and "
        "MLflow does not have it among the run's artifacts; name the store that has it with --store, or give the "
        "checkpoint's folder"
    )


def _local_folders(tags: dict[str, str], uri: str, store: CheckpointStore) -> list[Path]:
    name = f"{tags[STAGE_TAG]}-{tags[DIGEST_TAG][:16]}"
    if Path(name).name != name:
        return []
    folders = [store.root / "checkpoints" / name]
    if CHECKPOINT_TAG in tags:
        folders.append(Path(tags[CHECKPOINT_TAG]))
    if (database := sqlite_file(uri)) is not None:
        folders.append(database.parent / "checkpoints" / name)
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _verify(folder: Path, tags: dict[str, str]) -> Manifest:
    """The manifest of a checkpoint of the run with these tags; raises CheckpointError for any other."""
    manifest = verify(folder)
    if (manifest.stage, manifest.digest) != (tags[STAGE_TAG], tags[DIGEST_TAG]):
        raise CheckpointError(
            f"{folder} holds the checkpoint of another stage ({manifest.stage} {manifest.digest[:16]}); give the "
            "checkpoint's folder"
        )
    return manifest


def _runs_with_checkpoint(client: Any, run: Any) -> Iterator[str]:
    """Ids of the runs of the same stage that have its checkpoint among their artifacts, the given one first."""
    same = runs_of_stage(client, run.info.experiment_id, run.data.tags[DIGEST_TAG])
    for run_id in dict.fromkeys([run.info.run_id, *(other.info.run_id for other in same)]):
        if f"{CHECKPOINT}/manifest.json" in {item.path for item in client.list_artifacts(run_id, CHECKPOINT)}:
            yield run_id


def _ask(name: str, uri: str, job: Callable[[], T]) -> T:
    """The answer of a request to MLflow; raises CheckpointError, which names the run, when there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return job()
    except Exception as error:  # drivers and transports raise what they like
        address, is_answer = without_credentials(uri), isinstance(error, MlflowException)
        if is_answer and http_status(error) in (400, 404):
            reason = f"MLflow at {address} knows no such run; copy the id from the stage's page there"
        else:
            remedy = "start it, set MLFLOW_TRACKING_URI, or " if is_answer else ""
            reason = f"MLflow at {address} cannot be asked ({brief(error)}); {remedy}give the checkpoint's folder"
        raise CheckpointError(f"{name}: {reason}") from error
