"""Preflight of every task of a recipe."""

from __future__ import annotations

from pathlib import Path

from pipeline.planning.each_task import of_each_task
from schemas.recipe.recipe import Recipe
from stages.preflight.checks import PreflightResult, preflight


def look_at(recipe: Recipe, cache: Path) -> dict[str | None, PreflightResult]:
    """What the look finds, by task; under None where the recipe has one task, or none.

    Raises:
        ConfigError: something does not fit, of whatever task; every problem at once, each task's under its name.
        DataError: a model or a data set is missing or cannot be used as it is.
        ServiceError: a model hub is needed and cannot be reached.
    """
    return of_each_task(recipe, lambda one: preflight(one, cache))
