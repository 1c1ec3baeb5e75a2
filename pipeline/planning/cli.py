"""Commands about recipes: `distill recipes`, `show`, `plan` and `schema`."""

from __future__ import annotations

import sys

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.recipes.arguments import RecipeArgument, SetOption


def recipes(as_json: JsonOption = False) -> None:
    """List the shipped recipes, those that run without a network first."""
    from pipeline.planning.recipe_list import listed, order, print_recipes
    from pipeline.recipes.shipped import read_recipe, shipped_names

    found = sorted((listed(read_recipe(name)) for name in shipped_names()), key=order)
    if as_json:
        print_json([recipe.model_dump(mode="json") for recipe in found])
    else:
        print_recipes(found, out)


def show(recipe: RecipeArgument, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Print a recipe in full, with all defaults, as YAML."""
    from pipeline.recipes.shipped import read_recipe
    from schemas.loading.dump import dump_recipe

    resolved = read_recipe(recipe, changes or [])
    if as_json:
        print_json(resolved)
    else:
        sys.stdout.write(dump_recipe(resolved))


def plan(
    recipe: RecipeArgument, changes: SetOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Check a recipe; show what would run, how long it takes and why.

    [bold]Examples[/bold]
      distill plan films.yaml
      distill plan films.yaml --set student.shape.num_layers=3
    """
    from pipeline.planning.per_task import check_data
    from pipeline.recipes.shipped import read_recipe
    from stages.data.readers.first_reading import first_reading

    resolved = read_recipe(recipe, changes or [])
    with first_reading():
        check_data(resolved, store)
        from pipeline.planning.plan import make_plan, print_plan

        planned = make_plan(resolved, store)
    if as_json:
        print_json(planned)
    else:
        print_plan(planned, out)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from schemas.loading.dump import recipe_schema

    print_json(recipe_schema())
