"""Commands about recipes: `distill recipes`, `show`, `plan` and `schema`."""

from __future__ import annotations

import sys

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.recipes.arguments import RecipeArgument, RecipesArgument, SetOption


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
    recipe: RecipesArgument, changes: SetOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Check recipes; show what would run, how long it takes and why.

    [bold]Examples[/bold]
      distill plan films.yaml
      distill plan films.yaml --set student.shape.num_layers=3
      distill plan films.yaml wide.yaml --set 'seeds=[0,1,2]'
    """
    from pipeline.planning.per_task import check_data, per_recipe
    from pipeline.recipes.shipped import read_recipes
    from stages.data.readers.first_reading import first_reading

    resolved = read_recipes(recipe, changes or [])
    with first_reading():
        per_recipe(resolved, lambda one: check_data(one, store))
        from pipeline.planning.plan import print_plan
        from pipeline.planning.several_plans import make_plans, print_plans

        planned = make_plans(resolved, store)
    several = len(planned.plans) > 1
    if as_json:
        print_json(planned if several else planned.plans[0])
    elif several:
        print_plans(planned, out)
    else:
        print_plan(planned.plans[0], out)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from schemas.loading.dump import recipe_schema

    print_json(recipe_schema())
