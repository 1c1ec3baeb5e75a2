"""`distill recipes`: shipped recipes, those that run without a network first, then the shorter first.

Nothing but the recipes themselves is read, so amounts are the ones that they state: tokens, or an upper bound from
steps and epochs where the batch and the rows have a limit.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipeline.process.terminal import say, shown
from pipeline.reporting.run_table import amount
from schemas.core.base import Frozen
from schemas.core.training import BatchSize, Duration
from schemas.recipe.recipe import Recipe

# Two CPU cores train a student of a few layers on about a thousand tokens in a second.
_MINUTES, _HOURS = 2_000_000, 50_000_000
_NAMED_KINDS = {"multi_label": "several labels", "token_classification": "tags of words", "embedding": "vectors"}


class ListedRecipe(Frozen):
    """A recipe with what decides whether a newcomer can run it."""

    name: str
    description: str
    offline: bool
    """True if models and data need no model hub."""
    task: str
    """Kind of the task in words, such as `single texts` for the classes of single texts."""
    tokens: int | None
    """Most tokens that teacher and student are trained on; null where the recipe does not limit them."""
    stages: dict[str, str]
    """Length of each stage's training, as the recipe states it."""


def listed(recipe: Recipe) -> ListedRecipe:
    """Return a recipe's line in the list."""
    return ListedRecipe(
        name=recipe.name,
        description=recipe.description or "",
        offline=not _needs_hub(recipe.model_dump(mode="json")),
        task=_task(recipe),
        tokens=_tokens(recipe),
        stages={stage.name: str(stage.training.duration) for stage in recipe.stages},
    )


def order(recipe: ListedRecipe) -> tuple[bool, float, str]:
    """Sort key: what runs anywhere and ends soon comes first."""
    return not recipe.offline, float("inf") if recipe.tokens is None else recipe.tokens, recipe.name


def _needs_hub(value: Any) -> bool:
    """True if any model, task or source of the recipe is of a hub, also through another recipe's student."""
    if isinstance(value, list):
        return any(map(_needs_hub, value))
    if isinstance(value, dict):
        return value.get("kind") in ("hub", "student_of") or any(map(_needs_hub, value.values()))
    return False


def _task(recipe: Recipe) -> str:
    if recipe.tasks:
        return f"{len(recipe.tasks)} tasks"
    if recipe.task is None:
        return "general text"
    kind = recipe.task.problem.kind
    if kind == "classification":
        is_pair = getattr(recipe.task, "text_pair", None) is not None or recipe.task.kind == "docstring_pairs"
        return "pairs of texts" if is_pair else "single texts"
    return _NAMED_KINDS.get(kind, kind.replace("_", " "))


def _tokens(recipe: Recipe) -> int | None:
    """Tokens of all trainings; None where one of them has no limit."""
    task, corpus = recipe.task, recipe.general_corpus
    trainings = [(stage.training, stage.data) for stage in recipe.stages]
    if (training := getattr(recipe.teacher.task_model, "training", None)) is not None:
        trainings.append((training, "task_data"))
    total = 0.0
    for training, data in trainings:
        source = corpus if data == "general_corpus" else task
        if source is None:
            return None
        most = _most_tokens(
            training.duration, training.batch, source.max_length, getattr(source, "max_train_rows", None)
        )
        if most is None:
            return None
        total += most
    return round(total)


def _most_tokens(duration: Duration, batch: BatchSize, length: int, rows: int | None) -> float | None:
    if duration.unit == "tokens":
        return duration.amount
    if duration.unit == "steps":
        return duration.amount * batch.amount * (1 if batch.unit == "tokens" else length)
    return None if rows is None else duration.amount * rows * length


def print_recipes(recipes: list[ListedRecipe], console: Console) -> None:
    """Print each recipe with what it needs on one line, and its description below."""
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        needs = "offline" if recipe.offline else "needs a hub"
        line = Text.assemble((recipe.name.ljust(width), "bold"), f"  {needs:<11}  {recipe.task:<16}  {_length(recipe)}")
        console.print(line)
        console.print(Padding(shown(recipe.description, "dim"), (0, 0, 0, 4)))
    say(console)
    say(console, "the settings of one: distill show NAME; its time on this machine: distill plan NAME")


def _length(recipe: ListedRecipe) -> str:
    if recipe.tokens is None:
        # The texts of a hub decide how many tokens an epoch has.
        return "hours to days on a GPU"
    if recipe.tokens <= _MINUTES:
        return f"{amount(recipe.tokens)} tokens, minutes"
    return f"{amount(recipe.tokens)} tokens, {'hours' if recipe.tokens <= _HOURS else 'days on a GPU'}"
