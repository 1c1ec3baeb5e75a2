"""The task of `distill evaluate --task`: a name or folder, a recipe's file, or a mapping as in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.base import Frozen
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from schemas.core.wording import shown_path, shown_value
from schemas.data.stage_data import TaskDataset
from schemas.data.tasks import AnyTask, FileTask, TaskData
from schemas.loading.explain import explained, meaningful
from schemas.loading.yaml_text import parse_yaml
from schemas.results.manifest import Manifest

_RECIPES = (".yaml", ".yml")


class _Argument(Frozen):
    task: TaskData


def task_argument(text: str, manifest: Manifest) -> AnyTask:
    """Return the task to evaluate a checkpoint on.

    Args:
        text: a short form (`sst2`, `./folder`), a file of rows to score, a recipe by file or name for that recipe's
            task (`recipe.yaml:NAME` for one of several), or a mapping (`{kind: files, train: a.csv, validation:
            b.csv}`). Columns, kind and other fields that a folder or a mapping of files leaves open are those that the
            checkpoint was trained with.
        manifest: the checkpoint's.

    Raises:
        ConfigError: no such task.
    """
    refuse_credentials({"--task": text})
    path, _, name = text.partition(":") if not text.endswith(_RECIPES) else (text, "", "")
    if path.endswith(_RECIPES) or path in shipped_names():
        return _task_of_recipe(path, name)
    trained = _trained(manifest)
    if text.lstrip().startswith("{"):
        value = parse_yaml(text, "--task").value
        if trained is not None and isinstance(value, dict) and value.get("kind", "files") == "files":
            value = {**trained.model_dump(), **_other_files(trained, value), **value}
        return _validated(value)
    local = local_path(text, "--task")
    if local.is_file():
        return _rows_of_file(text, trained)
    try:
        task = _validated(text)
    except ConfigError as error:
        if local.is_dir():
            raise ConfigError(f"--task: {shown_value(text)} is no task; did you mean the folder ./{text}?") from None
        raise error
    if not isinstance(task, FileTask) or trained is None:
        return task
    # A folder's short form names the files and nothing else.
    files = task.model_dump(include={"train", "validation"})
    return trained.model_copy(update=_other_files(trained, files) | files)


def _rows_of_file(path: str, trained: FileTask | None) -> FileTask:
    """The task of a checkpoint with other validation rows."""
    if trained is None:
        raise ConfigError(
            f"--task: {path} has rows to score, but the checkpoint was not trained on files, whose columns they would "
            f"have; name them: --task '{{kind: files, train: FILE, validation: {path}, text: COLUMN, label: COLUMN}}'"
        )
    files = {"train": trained.train, "validation": path}
    return trained.model_copy(update=_other_files(trained, files) | files)


def _task_of_recipe(path: str, name: str) -> AnyTask:
    if path.endswith(_RECIPES) and not Path(path).is_file():
        raise ConfigError(f"--task: there is no recipe {path}; give the path of a YAML file")
    recipe = read_recipe(path)
    tasks = recipe.tasks or ({} if recipe.task is None else {"": recipe.task})
    if name in tasks:
        return tasks[name]
    if not tasks:
        raise ConfigError(f"--task: the recipe {path} has no task; give one by name, or a folder")
    if not recipe.tasks:
        raise ConfigError(f"--task: the recipe {path} has one task; leave out :{name}")
    raise ConfigError(
        f"--task: the recipe {path} has the tasks {', '.join(tasks)}; name one, such as {path}:{next(iter(tasks))}"
    )


def _trained(manifest: Manifest) -> FileTask | None:
    """The task of files that a checkpoint was trained on; None for any other data."""
    data = manifest.config.data
    if not isinstance(data, TaskDataset) or not isinstance(data.task, FileTask):
        return None
    if data.task.positive_label is not None or manifest.positive_label is None:
        return data.task
    # F1 stays about the class of the training, even if it would not be the rarer class of other training rows.
    return data.task.model_copy(update={"positive_label": manifest.positive_label})


def _other_files(trained: FileTask, files: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the fields that hold for the training's files alone: their format, and further validation rows."""
    if all(files.get(split, "") == getattr(trained, split) for split in ("train", "validation")):
        return {}
    fields = FileTask.model_fields
    return {name: fields[name].get_default(call_default_factory=True) for name in ("format", "more_validation")}


def _validated(value: Any) -> AnyTask:
    try:
        return _Argument.model_validate({"task": value}).task
    except ValidationError as error:
        problems = []
        for details in meaningful(error.errors(include_url=False)):
            path, reason = explained(details, _Argument)
            inner = shown_path(path[1:])
            problems.append(f"--task {inner + ': ' if inner else ''}{reason}")
        raise ConfigError(problems or f"--task {shown_value(value)} is no task") from None
