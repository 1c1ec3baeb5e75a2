"""The shipped recipes, package data beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.core.errors import ConfigError
from schemas.loading.load import load_recipe, recipe_names
from schemas.recipe.recipe import Recipe

RECIPES = Path(__file__).parent


def shipped_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(recipe_names(RECIPES))


def read_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or a YAML file by path, with overrides applied.

    Raises:
        ConfigError: no such recipe, or all of its problems.
    """
    return load_recipe(source, overrides, recipes_folder=RECIPES)


def read_recipes(sources: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """Load recipes that are run in one call, by their names, each with the overrides applied.

    Raises:
        ConfigError: all problems of all recipes, or two of one name.
    """
    if not sources:
        raise ConfigError("no recipe is named; give a shipped name or the path of a YAML file, or several")
    recipes: dict[str, Recipe] = {}
    origins: dict[str, str] = {}
    sources_of: dict[str, list[str]] = {}
    for source in sources:
        try:
            recipe = read_recipe(source, overrides)
        except ConfigError as error:
            for problem in error.problems:
                sources_of.setdefault(problem, []).append(source)
            continue
        if (other := origins.get(recipe.name)) is not None:
            repeated = f"{source} is listed twice; to run it several times, list seeds: --set seeds=[0,1,2]"
            namesakes = f"{other} and {source} both have the name {recipe.name}; give one of them another `name`"
            sources_of[repeated if source == other else namesakes] = list(sources)
        recipes.setdefault(recipe.name, recipe)
        origins.setdefault(recipe.name, source)
    if sources_of:
        # A file's problem names the file; a problem of all recipes is one of the command line.
        raise ConfigError(
            [
                f"{', '.join(of)}: {problem}" if problem.startswith("--set") and len(of) < len(sources) else problem
                for problem, of in sources_of.items()
            ]
        )
    return recipes
