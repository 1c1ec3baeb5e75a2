"""The student that a name stands for: an export, a checkpoint, or the last student of a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.export.manifest import is_export, open_export
from pipeline.predict.students import WEIGHTS, Student, no_head
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from schemas.core.wording import suggestion
from schemas.results.export import EXPORT
from stages.storage.sealed_folder import MANIFEST


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
    if is_export(folder):
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
    listed = f"{suggestion(name, runs)} ({', '.join(runs[:5])}{', …' if len(runs) > 5 else ''})" if runs else ""
    what = f"is a folder without {EXPORT} or {MANIFEST}" if folder.is_dir() else "is no folder"
    raise ConfigError(
        f"{name} {what}, and no run of {opened.root}{listed}: give first the student, a folder of distill export, a "
        'checkpoint or a run, and then texts: distill predict STUDENT "a text"'
    )


def _exported(folder: Path) -> Student:
    manifest = open_export(folder, needed=("tokenizer.json", "config.json", WEIGHTS))
    if manifest.task is None:
        raise no_head(str(folder), manifest.stage)
    if manifest.form is None:
        raise ConfigError(f"{folder} was exported by a version that did not record the form of its rows; export again")
    files: dict[str, str] = {model.number_format: model.file for model in manifest.models}
    return Student(str(folder), folder, manifest.form, manifest.labels, manifest.max_length, files)
