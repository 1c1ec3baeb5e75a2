"""One look at every task of a recipe, whose errors are told together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from schemas.core.errors import ConfigError, DistillError
from schemas.recipe.recipe import Recipe

Found = TypeVar("Found")


def of_each_task(recipe: Recipe, look: Callable[[Recipe], Found]) -> dict[str | None, Found]:
    """What `look` finds in the recipe of each task; under None where the recipe has one task, or none.

    Raises:
        ConfigError: something does not fit, of whatever task; every problem at once, each task's under its name.
        DistillError: as `look`, of the first task that it is raised of.
    """
    if recipe.tasks is None:
        return {None: look(recipe)}
    facts: dict[str | None, Found] = {}
    errors: list[DistillError] = []
    of: dict[str, list[str]] = {}
    for name in recipe.tasks:
        try:
            facts[name] = look(recipe.for_task(name))
        except DistillError as error:
            errors.append(error)
            for problem in error.problems if isinstance(error, ConfigError) else (str(error),):
                of.setdefault(problem, []).append(name)
    if not errors:
        return facts
    # What is wrong whatever the task is said once.
    lines = [
        problem if len(names) == len(recipe.tasks) else f"task {', '.join(names)}: {problem}"
        for problem, names in of.items()
    ]
    if any(error.exit_code == ConfigError.exit_code for error in errors):
        raise ConfigError(lines)
    raise type(errors[0])("\n".join(lines))
