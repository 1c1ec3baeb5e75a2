"""Checks of every task of a recipe, and of every recipe of a call, whose errors are reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import store_for_look
from pipeline.store.files import disk_errors
from schemas.core.errors import ConfigError, DistillError
from schemas.recipe.recipe import Recipe

Result = TypeVar("Result")


def per_task(recipe: Recipe, check: Callable[[Recipe], Result]) -> dict[str | None, Result]:
    """Return the results of a check by task, or under None for a recipe without several tasks.

    Raises:
        ConfigError: all problems of all tasks, each with the names of its tasks.
        DistillError: as `check`, for the first task that fails.
    """
    if recipe.tasks is None:
        return {None: check(recipe)}
    results: dict[str | None, Result] = {}
    errors: list[DistillError] = []
    tasks_of: dict[str, list[str]] = {}
    for name in recipe.tasks:
        try:
            results[name] = check(recipe.for_task(name))
        except DistillError as error:
            errors.append(error)
            for problem in error.problems if isinstance(error, ConfigError) else (str(error),):
                tasks_of.setdefault(problem, []).append(name)
    if not errors:
        return results
    # A problem of all tasks is one of the recipe.
    lines = [
        problem if len(names) == len(recipe.tasks) else f"task {', '.join(names)}: {problem}"
        for problem, names in tasks_of.items()
    ]
    if any(error.exit_code == ConfigError.exit_code for error in errors):
        raise ConfigError(lines)
    raise type(errors[0])("\n".join(lines))


def per_recipe(recipes: Mapping[str, Recipe], check: Callable[[Recipe], Result]) -> list[Result]:
    """Return the results of a check of several recipes, in their order.

    Raises:
        ConfigError: all problems of all recipes, each with the name of its recipe where there are several.
        DistillError: as `check`, for the first recipe that fails.
    """
    if len(recipes) == 1:
        return [check(recipe) for recipe in recipes.values()]
    results, problems = [], []
    for name, recipe in recipes.items():
        try:
            results.append(check(recipe))
        except ConfigError as error:
            problems += [f"recipe {name}: {problem.removeprefix(f'recipe {name}: ')}" for problem in error.problems]
        except DistillError as error:
            raise type(error)(f"recipe {name}: {error}") from None
    if problems:
        raise ConfigError(problems)
    return results


def check_data(recipe: Recipe, store: str | Path | None) -> None:
    """Read a recipe's labelled rows, and check that the files of its corpus exist.

    This runs before anything heavy is imported and before a server starts, so that a misspelt column is reported within
    seconds. Inside `stages.data.readers.first_reading.first_reading` the run does not read the rows again.

    Raises:
        ConfigError: the store's path exists and is not a folder.
        DataError: a file, a row or a data set cannot be used; with its location and what to do.
    """
    with store_for_look(read_settings(store).store) as opened, disk_errors(opened.cache):
        per_task(recipe, lambda task_recipe: _check_data(task_recipe, opened.cache))


def _check_data(recipe: Recipe, cache: Path) -> None:
    from schemas.data.corpus import FileText
    from stages.data.corpus.sources import paths_of
    from stages.data.tasks.load import load_task

    mixture = recipe.teacher.multi_task.tasks.values() if recipe.teacher.multi_task else ()
    for task in (recipe.task, *mixture):
        if task is not None:
            load_task(task, cache, droppable=recipe.limits.dropped)
    for source in recipe.general_corpus.sources if recipe.general_corpus else ():
        if isinstance(source, FileText):
            paths_of(source)
