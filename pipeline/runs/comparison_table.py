"""Two runs beside each other, as a terminal shows them."""

from __future__ import annotations

from rich.console import Console

from pipeline.process.terminal import say, shown
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.run_table import NAMES, amount, duration, percent
from pipeline.runs.comparison import ChangedScore, RunComparison

_MOST_SETTINGS = 30


def print_comparison(comparison: RunComparison, console: Console) -> None:
    """Print what differs between two runs, their scores stage by stage, and the verdict."""
    console.print(as_terminal(runs_table(comparison)))
    if comparison.settings:
        console.print(as_terminal(settings_table(comparison)))
        if (more := len(comparison.settings) - _MOST_SETTINGS) > 0:
            say(console, f"and {more} more settings; all of them: distill compare A B --json")
    console.print(as_terminal(scores_table(comparison)))
    for line in verdict(comparison):
        console.print(shown(line))


def runs_table(comparison: RunComparison) -> ResultTable:
    """The two runs with their costs."""
    columns = (
        Column("", is_text=True),
        Column("run", is_text=True, wraps=True),
        Column("tokens"),
        Column("time"),
        Column("parameters"),
    )
    rows = [
        TableRow(
            (
                letter,
                cost.run,
                amount(cost.tokens),
                duration(cost.seconds),
                "–" if cost.parameters is None else f"{cost.parameters / 1e6:.2f} M",
            )
        )
        for letter, cost in (("A", comparison.first), ("B", comparison.second))
    ]
    return ResultTable(columns, tuple(rows), f"two runs of {comparison.task or 'general text'}")


def settings_table(comparison: RunComparison) -> ResultTable:
    """The settings that differ."""
    columns = (
        Column("setting that differs", is_text=True, wraps=True),
        Column("A", is_text=True, wraps=True),
        Column("B", is_text=True, wraps=True),
    )
    rows = [TableRow((setting.key, setting.first, setting.second)) for setting in comparison.settings[:_MOST_SETTINGS]]
    return ResultTable(columns, tuple(rows))


def scores_table(comparison: RunComparison) -> ResultTable:
    """The scores of both, stage by stage."""
    columns = (
        Column("stage", is_text=True),
        Column("score", is_text=True),
        Column("A"),
        Column("B"),
        Column("B - A"),
        Column("95 % interval"),
    )
    rows = []
    named = ""
    for score in comparison.scores:
        name = "" if score.stage == named else NAMES.get(score.stage, score.stage)
        named = score.stage
        cells = (name, *_cells(score, comparison.metric))
        rows.append(TableRow(cells, "bold" if score.measure == "task" else ""))
    return ResultTable(columns, tuple(rows))


def _cells(score: ChangedScore, metric: str | None) -> tuple[str, ...]:
    values, difference = (score.first, score.second), score.difference
    if score.measure == "latent loss":
        shown = ["–" if value is None else f"{value:.4g}" for value in values]
        return "latent loss", *shown, "–" if difference is None else f"{difference:+.3g}", ""
    title = f"{metric} %" if score.measure == "task" else "probe %"
    return title, *map(percent, values), "–" if difference is None else _points(difference), _interval(score)


def _points(share: float) -> str:
    """Write a difference of two shares in points, `+1.5`."""
    return f"{100 * share:+.1f}"


def _interval(score: ChangedScore) -> str:
    if score.low is None or score.high is None:
        return ""
    return "same model" if score.basis == "same model" else f"{_points(score.low)} to {_points(score.high)}"


def verdict(comparison: RunComparison) -> list[str]:
    """Say whether the second run's student is better, and how far that can be trusted."""
    student = comparison.student
    if student is None or student.difference is None:
        return ["one of the runs has no student with a score: nothing says which is better"]
    if student.basis == "same model":
        return ["both runs end with the same student"]
    measure = comparison.metric if student.measure == "task" else "the linear probe's score"
    change = f"{_points(student.difference)} points of {measure}"
    if student.low is None or student.high is None:
        return [f"B's student against A's: {change}; without an interval, since {comparison.why_unpaired}"]
    paired = f"on the same {comparison.rows:,} rows" if student.basis == "paired" else "not paired"
    change += f" (95 % interval {_interval(student)}, {paired})"
    if student.low > 0:
        lines = [f"yes, B's student is better: {change}"]
    elif student.high < 0:
        lines = [f"no, B's student is worse: {change}"]
    else:
        lines = [f"not clear: {change}; chance in the choice of the rows may explain it"]
    if student.basis == "unpaired":
        lines.append(f"the interval is wider than a paired one, since {comparison.why_unpaired}")
    return [*lines, "the interval is about the rows alone: another seed of the training changes results as well"]
