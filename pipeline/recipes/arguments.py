"""Arguments and options that name a recipe, its stages and its changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def _recipes(incomplete: str) -> Iterator[str]:
    """Complete the name of a shipped recipe, or the path of a YAML file."""
    yield from (path.stem for path in sorted(Path(__file__).parent.glob("*.yaml")) if path.stem.startswith(incomplete))
    folder, _, name = incomplete.rpartition("/")
    for path in sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).glob(f"{name}*")):
        shown = f"{folder}/{path.name}" if "/" in incomplete else path.name
        if path.is_dir():
            yield f"{shown}/"
        elif path.suffix in (".yaml", ".yml"):
            yield shown


def _stages(incomplete: str) -> list[str]:
    from schemas.recipe.stage import STAGE_ORDER

    return [name for name in STAGE_ORDER if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Name of a shipped recipe, or path of your YAML file.", autocompletion=_recipes
    ),
]
RecipesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE...",
        help="Name of a shipped recipe, or path of your YAML file; or several.",
        autocompletion=_recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as in: --set student.shape.num_layers=3. Give it several times for several settings; "
        "the keys are those of: distill show RECIPE.",
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="Begin with this stage; the store must have those before it.",
        autocompletion=_stages,
    ),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="End after this stage.", autocompletion=_stages)
]
