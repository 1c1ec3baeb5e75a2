"""The way back from a run of MLflow to the checkpoint of its stage, wherever the store is now.

A run names its stage and the stage's digest. So its checkpoint is looked for in the store at hand, where it was made,
and in the store that the database belongs to. Runs on a server that several machines share also have the checkpoint
among their artifacts, from where it comes into the store at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipeline.store.checkpoints import CheckpointStore, verify
from pipeline.store.files import storage_errors
from pipeline.tracking.client import CHECKPOINT_TAG, http_status, is_run_id, load_mlflow, sqlite_file
from schemas.core.credentials import without_credentials
from schemas.core.errors import CheckpointError
from schemas.results.manifest import Manifest
from stages.storage.sealed_folder import unfinished

T = TypeVar("T")

CHECKPOINT = "checkpoint"
STAGE_TAG, DIGEST_TAG = "distill.stage", "distill.digest"
_MOST_RUNS = 100


def resolve_run(run_id: str, *, uri: str, store: CheckpointStore) -> Path:
    """The folder of the checkpoint that a stage's run made or reused, every file verified.

    Args:
        run_id: MLflow's id of a stage's (child) run.
        uri: MLflow's address.
        store: is looked into first, and takes what has to be downloaded.

    Raises:
        CheckpointError: no such run, no whole checkpoint of it anywhere, or a server that cannot be reached.
        StoreError: there is no room for what was downloaded.
    """
    place = f"mlflow:{run_id[:80]}"
    if not is_run_id(run_id):
        raise CheckpointError(f"{place!r} is no id of a run; copy it from the stage's page in MLflow")
    mlflow = load_mlflow()
    client = _try(place, uri, lambda: mlflow.MlflowClient(tracking_uri=uri))
    run = _try(place, uri, lambda: client.get_run(run_id))
    tags: dict[str, str] = run.data.tags
    if not {STAGE_TAG, DIGEST_TAG} <= set(tags):
        raise CheckpointError(
            f"{place} has no checkpoint; give the id of a stage's (child) run, or a checkpoint's folder"
        )
    problems = []
    for folder in _places(tags, uri, store):
        if (problem := _problem(folder, tags)) is None:
            return folder
        problems.append(problem)
    holder = _try(place, uri, lambda: next(_with_artifact(client, run), None))
    if holder is not None:
        return _downloaded(place, uri, client, holder, tags, store)
    looked = "; ".join(problems) or "none of its stage is in the store"
    was = f" (it was made in {tags[CHECKPOINT_TAG]})" if CHECKPOINT_TAG in tags else ""
    raise CheckpointError(
        f"{place}: no checkpoint of {tags[STAGE_TAG]} {tags[DIGEST_TAG][:16]} is to be had{was}: {looked}, and MLflow "
        "has it not among the run's artifacts; name the store that has it with --store, or give the checkpoint's folder"
    )


def _places(tags: dict[str, str], uri: str, store: CheckpointStore) -> list[Path]:
    """Where the checkpoint may be on this machine."""
    name = f"{tags[STAGE_TAG]}-{tags[DIGEST_TAG][:16]}"
    if Path(name).name != name:
        return []
    found = [store.root / "checkpoints" / name]
    if CHECKPOINT_TAG in tags:
        found.append(Path(tags[CHECKPOINT_TAG]))
    if (database := sqlite_file(uri)) is not None:
        found.append(database.parent / "checkpoints" / name)
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _problem(folder: Path, tags: dict[str, str]) -> str | None:
    """What is wrong with a checkpoint of the run; None if nothing is."""
    try:
        manifest = verify(folder)
    except CheckpointError as error:
        return str(error)
    if (manifest.stage, manifest.digest) != (tags[STAGE_TAG], tags[DIGEST_TAG]):
        return f"{folder} holds {manifest.stage} {manifest.digest[:16]} by now"
    return None


def _with_artifact(client: Any, run: Any) -> Iterator[str]:
    """Ids of runs of the same stage that have its checkpoint among their artifacts, the given one first."""
    same = client.search_runs(
        [run.info.experiment_id], f"tags.`{DIGEST_TAG}` = '{run.data.tags[DIGEST_TAG]}'", max_results=_MOST_RUNS
    )
    for run_id in dict.fromkeys([run.info.run_id, *(each.info.run_id for each in same)]):
        if f"{CHECKPOINT}/manifest.json" in {item.path for item in client.list_artifacts(run_id, CHECKPOINT)}:
            yield run_id


def _downloaded(place: str, uri: str, client: Any, run_id: str, tags: dict[str, str], store: CheckpointStore) -> Path:
    """The checkpoint among a run's artifacts, as one of the store's own."""
    parent = store.root / "checkpoints"
    with storage_errors(parent), unfinished(parent) as scratch:
        _try(place, uri, lambda: client.download_artifacts(run_id, CHECKPOINT, str(scratch)))
        manifest: Manifest = verify(scratch / CHECKPOINT)
        if (manifest.stage, manifest.digest) != (tags[STAGE_TAG], tags[DIGEST_TAG]):
            raise CheckpointError(
                f"{place}: MLflow at {without_credentials(uri)} keeps the checkpoint of another stage there "
                f"({manifest.stage} {manifest.digest[:16]}); give the checkpoint's folder"
            )
        return store.writer(manifest.stage, manifest.digest).adopt(scratch / CHECKPOINT)


def _try(place: str, uri: str, job: Callable[[], T]) -> T:
    from mlflow.exceptions import MlflowException

    address = without_credentials(uri)
    try:
        return job()
    except MlflowException as error:
        if http_status(error) in (400, 404):
            raise CheckpointError(
                f"{place}: MLflow at {address} knows no such run; copy the id from the stage's page there"
            ) from error
        raise CheckpointError(
            f"{place}: MLflow at {address} cannot be asked ({_brief(error)}); start it, set "
            "MLFLOW_TRACKING_URI, or give the checkpoint's folder"
        ) from error
    except Exception as error:  # drivers and transports raise what they like
        raise CheckpointError(
            f"{place}: MLflow at {address} cannot be asked ({_brief(error)}); give the checkpoint's folder"
        ) from error


def _brief(error: Exception) -> str:
    return without_credentials(" ".join(str(error).split()))[:200]
