"""The task that `distill evaluate --task` names: in short, by a recipe's file, or by a mapping as in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.base import Frozen
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.wording import shown_place, shown_value
from schemas.data.stage_data import TaskDataset
from schemas.data.tasks import AnyTask, FileTask, TaskData
from schemas.loading.explain import meaningful, sentence
from schemas.loading.yaml_text import parse_yaml
from schemas.results.manifest import Manifest

_RECIPES = (".yaml", ".yml")


class _Asked(Frozen):
    task: TaskData


def named_task(given: str, manifest: Manifest) -> AnyTask:
    """The task to evaluate a checkpoint on.

    Args:
        given: a short form (`sst2`, `./folder`), a recipe by file or name for the recipe's own task (`recipe.yaml:NAME`
            for one of several), or a mapping (`{kind: files, train: a.csv, validation: b.csv}`). What a folder or a
            mapping of files leaves open, such as columns and kind, is as the checkpoint was trained.
        manifest: the checkpoint's.

    Raises:
        ConfigError: there is no such task.
    """
    refuse_credentials({"--task": given})
    path, _, name = given.partition(":") if not given.endswith(_RECIPES) else (given, "", "")
    if path.endswith(_RECIPES) or path in shipped_names():
        return _of_recipe(path, name)
    trained = _trained(manifest)
    if given.lstrip().startswith("{"):
        value = parse_yaml(given, "--task").value
        return _validated({**_like(trained, value), **value} if isinstance(value, dict) else value)
    task = _validated(given)
    if not isinstance(task, FileTask) or trained is None:
        return task
    # The short form says where the files are, and nothing else.
    places = task.model_dump(include={"train", "validation"})
    return trained.model_copy(update=_elsewhere(trained, places) | places)


def _of_recipe(path: str, name: str) -> AnyTask:
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
    data = manifest.config.data
    if not isinstance(data, TaskDataset) or not isinstance(data.task, FileTask):
        return None
    if data.task.positive_label is not None or manifest.positive_label is None:
        return data.task
    # F1 stays about the class of the training, even where other training rows would make it another.
    return data.task.model_copy(update={"positive_label": manifest.positive_label})


def _like(trained: FileTask | None, given: dict[str, Any]) -> dict[str, Any]:
    """What a mapping of files need not say."""
    if trained is None or given.get("kind", "files") != "files":
        return {}
    return {**trained.model_dump(), **_elsewhere(trained, given)}


def _elsewhere(trained: FileTask, places: dict[str, Any]) -> dict[str, Any]:
    """What does not hold for other files than those of the training: how they are written, and further ones."""
    if all(places.get(split, "") == getattr(trained, split) for split in ("train", "validation")):
        return {}
    defaults = FileTask.model_fields
    return {name: defaults[name].get_default(call_default_factory=True) for name in ("format", "more_validation")}


def _validated(given: Any) -> AnyTask:
    try:
        return _Asked.model_validate({"task": given}).task
    except ValidationError as error:
        problems = []
        for details in meaningful(error.errors(include_url=False)):
            place, text = sentence(details, _Asked)
            inner = shown_place(place[1:])
            problems.append(f"--task {inner + ': ' if inner else ''}{text}")
        raise ConfigError(problems or f"--task {shown_value(given)} is no task") from None
