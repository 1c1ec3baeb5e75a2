"""The look at models and data before anything is trained, for every task of a recipe."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError, DistillError
from schemas.recipe import Recipe
from stages.preflight import Facts, preflight


def look_at(recipe: Recipe, cache: Path) -> dict[str | None, Facts]:
    """What the look finds, by task; under None where the recipe has one task, or none.

    Raises:
        ConfigError: something does not fit, of whatever task; every problem at once, each task's under its name.
        DataError: a model or a data set is missing or cannot be used as it is.
        ServiceError: a model hub is needed and cannot be reached.
    """
    if recipe.tasks is None:
        return {None: preflight(recipe, cache)}
    facts: dict[str | None, Facts] = {}
    errors: list[DistillError] = []
    of: dict[str, list[str]] = {}
    for name in recipe.tasks:
        try:
            facts[name] = preflight(recipe.for_task(name), cache)
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
