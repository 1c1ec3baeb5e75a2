"""Options of the flow, for the command line and for deployments: the part of a recipe to run."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.planning.per_task import per_recipe
from schemas.core.base import Frozen
from schemas.core.errors import ConfigError
from schemas.core.wording import printable, suggestion
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import Stage, StudentStageName


class RunOptions(Frozen):
    """The part of a recipe to run, and the store."""

    from_stage: StudentStageName | None = Field(default=None, title="From stage")
    """First stage to run; the store must have those before it (or give a checkpoint to resume from)."""
    until_stage: StudentStageName | None = Field(default=None, title="Until stage")
    """Last stage to run."""
    resume_from: str | None = Field(default=None, title="Resume from")
    """A checkpoint folder, or mlflow:RUN_ID, that the student continues."""
    store: str | None = Field(default=None, title="Store")
    """Folder of checkpoints and reports; empty for DISTILL_STORE or ./distill-store."""
    group: str | None = Field(default=None, title="Group", max_length=100)
    """Name under which MLflow finds this run among others, as the tag distill.group; empty for none."""


def check_options(
    recipes: Mapping[str, Recipe], from_stage: str | None, until_stage: str | None, resume_from: str | None
) -> None:
    """Check that the options of a call fit all of its recipes.

    Raises:
        ConfigError: a recipe does not have a named stage, or several cannot continue from one checkpoint.
    """
    per_recipe(recipes, lambda recipe: chosen_stages(recipe, from_stage, until_stage))
    if resume_from is not None and len(recipes) > 1:
        raise ConfigError(
            f"--resume-from {printable(resume_from)}: {len(recipes)} recipes cannot continue from one checkpoint; run "
            "the recipe that does on its own"
        )


def chosen_stages(recipe: Recipe, from_stage: str | None, until_stage: str | None) -> list[Stage]:
    """Return the recipe's stages up to `until_stage`.

    Raises:
        ConfigError: the recipe does not have a named stage, or the first comes after the last.
    """
    names: list[str] = [stage.name for stage in recipe.stages]
    wrong = [
        f"{option} {printable(chosen)}: recipe {recipe.name} has no such stage{suggestion(chosen, names)}; "
        f"it has {', '.join(names)}"
        for option, chosen in (("--from", from_stage), ("--until", until_stage))
        if chosen and chosen not in names
    ]
    if wrong:
        raise ConfigError(wrong)
    last = names.index(until_stage) if until_stage else len(names) - 1
    if from_stage and names.index(from_stage) > last:
        raise ConfigError(f"--from {from_stage} comes after --until {until_stage}; swap them")
    return list(recipe.stages[: last + 1])
