"""Durations of a new recipe's trainings that fit into some minutes, from a plan of its usual ones."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from pipeline.planning.plan import Plan, PlannedStage
from schemas.core.training import Duration
from schemas.recipe.short_forms import STAGE_TRAINING, TEACHER_TRAINING
from schemas.recipe.stage import STAGE_ORDER

TEACHER_SHARE = 1 / 3
"""Share of the time for the teacher's fine-tuning, if it needs one: a student hardly gets better than its teacher."""
_STAGE_SHARES: dict[str, float] = dict(zip(STAGE_ORDER, (0.10, 0.05, 0.10, 0.75), strict=True))
"""Shares of the rest, relative to each other; most for the stage that learns the labels (docs/results.md)."""
_MOST_EPOCHS: dict[str, int] = {"teacher": 10, **dict(zip(STAGE_ORDER, (3, 3, 10, 20), strict=True))}
_FEWEST_TOKENS = 1000


def trainings(plan: Plan, minutes: float) -> tuple[dict[str, dict[str, Any]], float]:
    """Return settings of the teacher's and the stages' trainings, by stage, and the seconds that they take.

    Args:
        plan: of the recipe with the usual settings.
        minutes: for all trainings together; what is left over is not used, as more epochs would hardly help.
    """
    usual: dict[str, Mapping[str, Any]] = {"teacher": TEACHER_TRAINING, **dict(STAGE_TRAINING.items())}
    stages = {stage.name: stage for stage in plan.stages if stage.name in usual}
    shares = {name: share for name, share in _STAGE_SHARES.items() if name in stages}
    rest = 1.0 - TEACHER_SHARE if "teacher" in stages else 1.0
    seconds = {name: 60 * minutes * rest * share / sum(shares.values()) for name, share in shares.items()}
    seconds["teacher"] = 60 * minutes * TEACHER_SHARE
    result: dict[str, dict[str, Any]] = {}
    taken = 0.0
    for name, stage in stages.items():
        tokens = seconds[name] * stage.tokens / stage.seconds
        most = _MOST_EPOCHS[name] * _tokens_of_epoch(plan, stage, Duration.model_validate(usual[name]["duration"]))
        tokens = max(min(tokens, most), _FEWEST_TOKENS)
        result[name] = {**usual[name], "duration": _rounded(tokens)}
        taken += tokens * stage.seconds / stage.tokens
    return result, taken


def _tokens_of_epoch(plan: Plan, stage: PlannedStage, usual: Duration) -> float:
    if usual.unit == "epochs":
        return stage.tokens / usual.amount
    corpus = next(iter(plan.data.values())).corpus
    return inf if corpus is None or corpus.sequences is None else corpus.sequences.tokens


def _rounded(tokens: float) -> str:
    """Return two digits of it: `280k tokens`."""
    digits = len(str(int(tokens))) - 2
    number = round(tokens / 10**digits) * 10**digits
    return f"{number / 1e6:g}M tokens" if number >= 1e6 else f"{number / 1e3:g}k tokens"
