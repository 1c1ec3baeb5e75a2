"""`distill register`: a student as a version of a registered model in MLflow, and the champion if it is better."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.export.export import Wanted, export
from pipeline.export.manifest import is_export
from pipeline.export.subject import checkpoint_of
from pipeline.process.settings import Settings, read_settings
from pipeline.process.terminal import say
from pipeline.registry.champion import ANSWERS, Decision, Judged, decide, judge_export
from pipeline.registry.light_model import LIGHT, light_request, read_export, refuse_kind, save_light_model
from pipeline.registry.registry import CHAMPION, FILE_TAG, Registry
from pipeline.registry.version_text import about_model, about_version, version_tags
from pipeline.reporting.run_table import with_interval
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint, store_for_look
from pipeline.store.files import storage_errors
from schemas.core.base import Frozen
from schemas.core.credentials import refuse_credentials, without_credentials
from schemas.core.errors import CheckpointError, ConfigError, DistillError
from schemas.data.stage_data import TaskDataset
from schemas.results.export import ExportManifest
from schemas.results.manifest import Manifest
from schemas.results.score import Score
from stages.storage.sealed_folder import make_folder, unfinished

_NAME = re.compile(r"[A-Za-z0-9][\w.\- ]{0,199}", re.ASCII)
_NO_CHECKPOINT = "its checkpoint, which knows the task, is not in the store"


class Registration(Frozen):
    """The result of `distill register`."""

    name: str
    """The registered model."""
    version: str
    """Number of the version."""
    is_new: bool
    """False where the same file was registered before."""
    model_id: str
    """MLflow's id of the logged model."""
    run_id: str
    """MLflow's id of its run."""
    number_format: str
    """Number format of the file that is served."""
    size: int
    """Bytes of that file."""
    metric: str | None
    """The task's main score; null where the version could not be scored."""
    score: Score | None
    """The version's score, by the file that is served."""
    is_champion: bool
    """True if the version is the champion now."""
    decision: str
    """The decision about the champion, and its reason."""
    difference: Score | None
    """The version's score minus the former champion's, over the same resampled rows; null where not compared."""
    tracking_uri: str
    """MLflow's address, without credentials."""


def register(
    name: str,
    *,
    model_name: str | None = None,
    task: str | None = None,
    is_fp32: bool = False,
    store: Path | None = None,
) -> Registration:
    """Log a student as a light model, register it, and make it the champion if it is the first or better.

    Args:
        name: a checkpoint, a run, whose last student it is, or a folder of `distill export`. The first two are
            exported, with 8-bit integers, into a folder that is removed again.
        model_name: name of the registered model; None for that of the task.
        task: rows on which it is compared, as of `distill evaluate --task`; None for those of its training.
        is_fp32: register the file in float32, where the student is exported here.
        store: the store that has the run, and a database of MLflow.

    Raises:
        ConfigError: there is no such student, it cannot be served, or MLflow refuses it.
        CheckpointError: the checkpoint or the export is damaged.
        DistillError: the student cannot be exported.
        ServiceError: MLflow cannot be reached.
    """
    refuse_credentials({"STUDENT": name, "--name": model_name})
    if model_name is not None and not _NAME.fullmatch(model_name):
        raise ConfigError(f"--name {model_name}: give letters, digits, blanks, - _ and ., at most 200 of them")
    settings = read_settings(store)
    with store_for_look(settings.store) as opened:
        exported = is_export(Path(name))
        if exported and is_fp32:
            raise ConfigError(f"--fp32: {name} is exported already, and its smallest file is registered; leave it out")
        checkpoint = None if exported else _servable(name, opened)
        registry = Registry(settings, opened)  # before the export, which takes its time
        with _exported(name, checkpoint, is_fp32, task, opened) as folder:
            return _register(folder, registry, opened, settings, model_name=model_name, task=task)


def _servable(name: str, store: CheckpointStore) -> Path:
    """Return the folder of a checkpoint, or of a run's last student, of a kind that can be served."""
    reference, manifest = open_checkpoint(checkpoint_of(name, store))
    if not manifest.labels:
        raise ConfigError(
            f"{name}: a {manifest.stage} checkpoint has no trained head, so that nothing can be served; register a "
            "task_specific one"
        )
    data = manifest.config.data
    if isinstance(data, TaskDataset):
        refuse_kind(data.task.problem.kind, name)
    return Path(reference.path)


@contextmanager
def _exported(
    name: str, checkpoint: Path | None, is_fp32: bool, task: str | None, store: CheckpointStore
) -> Iterator[Path]:
    """Yield the folder of an export: the one that is named, or one made of a checkpoint, which is removed again."""
    if checkpoint is None:
        yield Path(name)
        return
    with storage_errors(store.points), unfinished(_scratch(store)) as scratch:
        wanted = Wanted(onnx=True, int8=None if is_fp32 else "dynamic")
        try:
            export(str(checkpoint), scratch / "student", wanted, task, store.root)
        except DistillError as error:
            if type(error) is not DistillError or is_fp32:
                raise
            remedy = "here: --fp32, or register the folder of a distill export with other options"
            raise DistillError(f"{error}; {remedy}") from error
        yield scratch / "student"


def _scratch(store: CheckpointStore) -> Path:
    make_folder(store.points)
    return store.points


def _register(
    folder: Path,
    registry: Registry,
    store: CheckpointStore,
    settings: Settings,
    *,
    model_name: str | None,
    task: str | None,
) -> Registration:
    exported, model = read_export(folder)
    name = model_name or _default_name(exported)
    manifest = _checkpoint(exported, store)
    judged: Judged | str = _NO_CHECKPOINT
    if manifest is not None:
        judged = judge_export(folder, model.file, exported, manifest, task, store.cache)
    with storage_errors(store.points), unfinished(_scratch(store)) as scratch:
        light = scratch / LIGHT
        save_light_model(folder, light, judged.scorer.example if isinstance(judged, Judged) else None)
        if isinstance(judged, Judged):
            (light / ANSWERS).write_text(judged.kept.model_dump_json(), encoding="utf-8")
        run_id, model_id = registry.log(light_request(exported, model), light, exported)
    kept = judged.kept if isinstance(judged, Judged) else None
    tags = {**version_tags(exported, model, kept), FILE_TAG: exported.files[model.file].sha256}
    description = about_version(exported, model, kept)
    version = registry.add_version(name, model_id, run_id, tags, about=about_model(exported), description=description)
    decision = _crown(registry, name, version.number, judged)
    return Registration(
        name=name,
        version=version.number,
        is_new=version.is_new,
        model_id=model_id,
        run_id=run_id,
        number_format=model.number_format,
        size=model.size,
        metric=kept.metric if kept else None,
        score=kept.score if kept else None,
        is_champion=decision.is_champion,
        decision=decision.reason,
        difference=decision.difference,
        tracking_uri=without_credentials(settings.tracking_uri),
    )


def _crown(registry: Registry, name: str, version: str, judged: Judged | str) -> Decision:
    """Decide about the champion, and set the alias."""
    champion = registry.champion(name)
    number, kept = champion or (None, None)
    decision = decide(judged, version, number, kept)
    if decision.is_champion and number != version:
        registry.make_champion(name, version)
    return decision


def _default_name(exported: ExportManifest) -> str:
    """Return the task's name with signs that MLflow accepts."""
    return re.sub(r"[^\w.\-]+", "-", f"{exported.task}", flags=re.ASCII).strip("-.") or "student"


def _checkpoint(exported: ExportManifest, store: CheckpointStore) -> Manifest | None:
    """Return the manifest of the checkpoint that was exported; None where the store does not have it whole."""
    folder = store.root / "checkpoints" / f"{exported.stage}-{exported.digest[:16]}"
    try:
        _, manifest = open_checkpoint(folder)
    except CheckpointError:
        return None
    return manifest if manifest.digest == exported.digest else None


def print_registration(registration: Registration, console: Console) -> None:
    """Print the version, the decision about the champion, and the command that serves it."""
    title = f"{registration.name}, version {registration.version}"
    known = "" if registration.is_new else " (registered before)"
    score = "" if registration.score is None else f", {registration.metric} {with_interval(registration.score)}"
    size = f"{registration.size / 1e6:.1f} MB"
    say(console, f"{title}{known}: {registration.number_format}, {size}{score}, at {registration.tracking_uri}")
    say(console, registration.decision)
    alias = f"@{CHAMPION}" if registration.is_champion else f"/{registration.version}"
    uri = f"models:/{registration.name}{alias}"
    words = ["mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local", "--host", "127.0.0.1"]
    setting = f"MLFLOW_TRACKING_URI={shlex.quote(registration.tracking_uri)}"
    say(console, f"serve it: {setting} {shlex.join([*words, '--port', '5001'])}")
