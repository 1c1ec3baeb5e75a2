"""Options of the flow, for the command line and for deployments: the part of a recipe to run."""

from __future__ import annotations

from pydantic import Field

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
