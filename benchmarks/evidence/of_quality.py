"""Results of `benchmarks.quality`, and the tables of them that are kept."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from benchmarks.evidence.records import Interval, Line, Table
from benchmarks.methods import CONTROL
from benchmarks.paired import Difference, difference

Rows = Literal["held_out", "validation"]


@dataclass(frozen=True)
class Result:
    """One run: the student's score, and its scores of resampled rows."""

    key: str
    """Digest of the recipe that was run."""
    task: str
    rows: Rows
    method: str
    budget: float
    seed: int
    factor: float
    metric: str
    score: float
    draws: list[float]
    teacher: float
    guessing: float
    """Score of the best constant prediction."""
    scored: int
    """Rows that were scored."""
    agreement: float
    tokens: int
    seconds: float


def by_method(results: list[Result]) -> dict[tuple[str, float, str], list[Result]]:
    """Return the results of all seeds by task, number of tokens and method."""
    groups: dict[tuple[str, float, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.budget, result.method), []).append(result)
    return groups


def tables_of(results: list[Result], titles: dict[str, str]) -> tuple[Table, ...]:
    """Return a table for each task and budget, as the pages show them.

    Args:
        results: all results that are reported.
        titles: title of each task's table, by the recipe's name.
    """
    groups, tables = by_method(results), []
    for task, budget in dict.fromkeys((result.task, result.budget) for result in results):
        methods = {name: seeds for (of, tokens, name), seeds in groups.items() if (of, tokens) == (task, budget)}
        first = methods[CONTROL][0]
        tables.append(
            Table(
                title=titles[task],
                metric=first.metric,
                rows=first.scored,
                reported=first.rows == "validation",
                tokens=round(budget),
                seeds=tuple(result.seed for result in methods[CONTROL]),
                teacher=_spread([result.teacher for result in methods[CONTROL]]),
                guessing=round(100 * first.guessing, 4),
                lines=tuple(_line(name, seeds, methods[CONTROL]) for name, seeds in methods.items()),
                notes=_notes(methods),
            )
        )
    return tuple(tables)


def _line(method: str, seeds: list[Result], control: list[Result]) -> Line:
    found = minus(seeds, control)
    return Line(
        method=method,
        score=_spread([result.score for result in seeds]),
        minus_control=found and Interval(*(round(end, 4) for end in (found.mean, found.low, found.high))),
        agrees=round(100 * statistics.mean(result.agreement for result in seeds), 4),
    )


def _spread(scores: list[float]) -> Interval:
    return Interval.of_seeds([100 * score for score in scores])


def _notes(methods: dict[str, list[Result]]) -> tuple[str, ...]:
    """Return which learning rates were chosen, where not the recipe's."""
    chosen = {name: seeds[0].factor for name, seeds in methods.items()}
    if set(chosen.values()) == {1.0}:
        return ()
    rates = ", ".join(f"{factor:g} for {name}" for name, factor in chosen.items())
    return (f"Factors of the recipe's learning rates: {rates}.",)


def minus(seeds: list[Result], others: list[Result]) -> Difference | None:
    """Return the difference of two methods in points, with its 95 % interval; None for a method and itself."""
    if seeds is others:
        return None
    scores, reference = ([100 * result.score for result in group] for group in (seeds, others))
    return difference(scores, _percent(seeds), reference, _percent(others))


def _percent(seeds: list[Result]) -> list[list[float]]:
    return [[100 * value for value in result.draws] for result in seeds]
