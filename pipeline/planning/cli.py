"""Commands about recipes: `distill recipes`, `show`, `plan` and `schema`."""

from __future__ import annotations

import sys

from rich.table import Table

from pipeline.process.console import out, print_json
from pipeline.process.options import JsonOption, StoreOption
from pipeline.process.terminal import shown
from pipeline.recipes.arguments import RecipeArgument, SetOption


def recipes(as_json: JsonOption = False) -> None:
    """List the shipped recipes."""
    from pipeline.recipes.shipped import read_recipe, shipped_names

    loaded = [read_recipe(name) for name in shipped_names()]
    if as_json:
        print_json([{"name": recipe.name, "description": recipe.description} for recipe in loaded])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for recipe in loaded:
        table.add_row(shown(recipe.name, "bold"), shown(recipe.description))
    out.print(table)


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
    """Check a recipe; show what would run, how long it takes and why."""
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
