"""What MLflow keeps of a stage beside its numbers: the student in MLflow's own form, and the checkpoint.

Each is stored once: when its stage ends, or, where that did not come to pass, when the stage is next reused.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from pipeline.store.files import disk_errors
from pipeline.tracking import points as kept
from pipeline.tracking.models import save_mlflow_model
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.resume import CHECKPOINT
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.server import Server
from pipeline.tracking.session import REUSED_TAG, Tracking
from schemas.core.errors import DistillError
from schemas.results.manifest import Manifest
from stages.storage.sealed_folder import unfinished

log = logging.getLogger(__name__)

STUDENT = "model"
STORED_TAG = "distill.stored."
"""With an artifact's name behind it: set on a run once all of the artifact is there."""
_MOST_RUNS = 100


def log_student(model_folder: Path, run: TrackedRun) -> None:
    """Store a student in MLflow's own form among the artifacts of its stage's run.

    What is written on the way lies in the store: the folder of temporary files may be full. A failure of anything but
    the store's disk is a warning, since the checkpoint is whole and the student is tried again when it is reused.

    Raises:
        StoreError: the store's file system refused.
    """
    try:
        with disk_errors(run.points.parent), unfinished(run.points.parent) as scratch:
            save_mlflow_model(model_folder, scratch / STUDENT)
            _store(run, scratch / STUDENT, STUDENT)
    except DistillError:
        raise
    except Exception as error:  # MLflow and transformers raise what they like
        log.warning(
            "the student could not be put into MLflow's own form (%s: %s); its checkpoint %s is whole, and the next "
            "run that reuses it tries again",
            type(error).__name__,
            " ".join(str(error).split())[:200],
            model_folder.parent,
        )


def log_checkpoint(folder: Path, run: TrackedRun) -> None:
    """Store a checkpoint among the artifacts of its stage's run, from where other machines can go on from it."""
    _store(run, folder, CHECKPOINT)


def _store(run: TrackedRun, folder: Path, artifact: str) -> None:
    if run.log_artifacts(folder, artifact) or run.is_waiting:  # else MLflow refused it, and said so
        run.set_tags({f"{STORED_TAG}{artifact}": "true"})


def is_stored(tracking: Tracking, stage: Manifest, artifact: str) -> bool:
    """Whether MLflow has an artifact of a stage, or what is kept for MLflow holds it.

    Args:
        tracking: the experiment that is asked; while it cannot be, the files of the store decide.
        stage: the stage.
        artifact: `model` or `checkpoint`.
    """
    if stage.mlflow_run_id is not None:
        path = tracking.points / f"{stage.mlflow_run_id}.jsonl"
        runs = [path] if path.is_file() else []
    else:
        runs = kept.runs_tagged(tracking.points, "distill.digest", stage.digest)
    if any(_waits(path, artifact) for path in runs):
        return True
    experiment, known = tracking.experiment_id, None
    if experiment is not None:
        known = tracking.ask(f"the {artifact}", lambda server: _stored(server, experiment, stage.digest, artifact))
    return any(kept.has_finished(path) for path in runs) if known is None else known


def _waits(points: Path, artifact: str) -> bool:
    requests = (parcel.request for parcel in Outbox(points).parcels())
    return any(request.kind == "artifacts" and request.values.get("path") == artifact for request in requests)


def _stored(server: Server, experiment: str, digest: str, artifact: str) -> bool:
    with warnings.catch_warnings():  # MLflow and SQLAlchemy disagree about deprecations
        warnings.simplefilter("ignore")
        runs = server.client.search_runs([experiment], f"tags.`distill.digest` = '{digest}'", max_results=_MOST_RUNS)
    if any(f"{STORED_TAG}{artifact}" in run.data.tags for run in runs):
        return True
    # Versions that set no such tag stored it before they ended the run that had made it.
    return any(
        run.info.status == "FINISHED"
        and REUSED_TAG not in run.data.tags
        and server.client.list_artifacts(run.info.run_id, artifact)
        for run in runs
    )
