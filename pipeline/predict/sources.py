"""The student that a name stands for: an export, a checkpoint, or the last student of a run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pipeline.predict.students import WEIGHTS, Student, no_head
from schemas.core.errors import CheckpointError, ConfigError
from schemas.core.paths import local_path
from schemas.core.regular_files import read_regular
from schemas.results.export import EXPORT, ExportManifest
from stages.storage.sealed_folder import MANIFEST, differences


def find_student(name: str, store: Path | None) -> Student:
    """Return the student of a name.

    Args:
        name: a folder of `distill export`, a checkpoint's folder, or a run's name.
        store: the store that has the run.

    Raises:
        ConfigError: it is none of them, or the student has no head.
        CheckpointError: files are damaged.
    """
    folder = local_path(name, "the student")
    if (folder / EXPORT).is_file():
        return _exported(folder)
    from pipeline.predict.checkpoints import checkpoint_student

    if (folder / MANIFEST).is_file() or (folder.name == "model" and (folder.parent / MANIFEST).is_file()):
        return checkpoint_student(folder, store)
    return checkpoint_student(_checkpoint_of_run(name, folder, store), store)


def _checkpoint_of_run(name: str, folder: Path, store: Path | None) -> Path:
    from pipeline.process.settings import read_settings
    from pipeline.store.checkpoints import look_into_store

    opened = look_into_store(read_settings(store).store)
    runs = opened.list_reports()
    if name in runs:
        from pipeline.export.subject import checkpoint_of

        return checkpoint_of(name, opened)
    listed = f" ({', '.join(runs[:5])}{', …' if len(runs) > 5 else ''})" if runs else ""
    what = f"is a folder without {EXPORT} or {MANIFEST}" if folder.is_dir() else "is no folder"
    raise ConfigError(
        f"{name} {what}, and no run of {opened.root}{listed}: give first the student, a folder of distill export, a "
        'checkpoint or a run, and then texts: distill predict STUDENT "a text"'
    )


def _exported(folder: Path) -> Student:
    path = folder / EXPORT
    try:
        manifest = ExportManifest.model_validate_json(read_regular(path))
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as an export's manifest ({reason}); export again") from None
    if manifest.task is None:
        raise no_head(str(folder), manifest.stage)
    if manifest.form is None:
        raise ConfigError(f"{folder} was exported by a version that did not record the form of its rows; export again")
    files: dict[str, str] = {model.number_format: model.file for model in manifest.models}
    needed = ("tokenizer.json", "config.json", WEIGHTS, *files.values())
    listed = {name: entry for name, entry in manifest.files.items() if name in needed}
    if problems := differences(folder, listed, content=True):
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}; export again")
    missing = {**dict.fromkeys(needed)}.keys() - listed.keys()
    if missing:
        raise CheckpointError(f"{path} does not list {', '.join(sorted(missing))}; export again")
    return Student(str(folder), folder, manifest.form, manifest.labels, manifest.max_length, files)
