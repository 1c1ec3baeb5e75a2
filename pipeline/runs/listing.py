"""`distill runs`: the runs of a store, the newest first."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console

from pipeline.process.terminal import say
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.run_table import amount, duration, percent, student_row, teacher_row
from pipeline.reporting.spread_table import mean_scores
from pipeline.store.checkpoints import CheckpointStore
from pipeline.store.open_runs import read_records
from pipeline.store.run_reports import report_path
from schemas.core.base import Frozen
from schemas.core.errors import CheckpointError
from schemas.results.manifest import RunReport
from schemas.results.report import GroupReport

_WIDE = 110
"""Columns of a terminal that has room for the recipe, of which a run's name begins with the name anyway."""
_STAMP = re.compile(r"-\d{8}-\d{6}")


class ListedRun(Frozen):
    """One run of a store."""

    name: str
    """Name under which other commands know it."""
    recipe: str | None = None
    """The recipe's name; null where the report is damaged."""
    task: str | None = None
    """Its task; null for a run without one, and while a run is not finished."""
    tasks: int = 0
    """Number of runs in one of several tasks, seeds or recipes; each has a report of its own."""
    several: str | None = None
    """Number of its tasks, seeds or recipes in words, such as `3 seeds`; null for a single run."""
    state: Literal["finished", "running", "stopped", "failed", "damaged"]
    """Stopped: ended before its end; the same command continues it. Failed: so too, once its reason is mended."""
    reason: str | None = None
    """Why it failed."""
    ended: str
    """Time of the end in UTC and ISO 8601; of a run that is not finished, of its last step forward."""
    metric: str | None = None
    """Title of the score."""
    score: float | None = None
    """The student's score; of several seeds, the mean."""
    teacher_score: float | None = None
    """The teacher's."""
    tokens: int | None = None
    """Tokens that the student was trained on, in all stages."""
    seconds: float | None = None
    """Wall time of the run."""


def list_runs(store: CheckpointStore) -> list[ListedRun]:
    """Return all runs of a store, the newest first."""
    unfinished = [
        ListedRun(
            name=record.path.stem.rpartition("-")[0],
            recipe=_STAMP.split(record.path.stem)[0],
            state="running" if record.is_held else "failed" if record.failed else "stopped",
            reason=record.failed,
            ended=_utc(record.written),
        )
        for record in read_records(store.root)
    ]
    finished = [_listed(store, name) for name in store.list_reports()]
    return sorted(unfinished + finished, key=lambda run: run.ended, reverse=True)


def _listed(store: CheckpointStore, name: str) -> ListedRun:
    ended = _utc(report_path(store.root, name).stat().st_mtime)
    try:
        report = store.read_report(name)
    except CheckpointError:
        return ListedRun(name=name, state="damaged", ended=ended)
    if not isinstance(report, RunReport):
        means = mean_scores(report)
        return ListedRun(
            name=name,
            recipe=report.recipe,
            tasks=len(report.tasks) + len(report.failed),
            several=_several(report),
            state="finished",
            ended=ended,
            score=means.get("student"),
            teacher_score=means.get("teacher"),
            seconds=report.seconds,
        )
    student, teacher = student_row(report), teacher_row(report)
    return ListedRun(
        name=name,
        recipe=report.recipe,
        task=report.task,
        state="finished",
        ended=ended,
        metric=report.metric_title if report.metric else None,
        score=student.judgement.task_metric if student else None,
        teacher_score=teacher.judgement.task_metric if teacher else None,
        tokens=sum(row.tokens or 0 for row in report.rows if row.kind == "stage"),
        seconds=report.seconds,
    )


def _several(report: GroupReport) -> str:
    """Write what a run has several of: `2 tasks, 3 seeds`; of several recipes, `6 runs`."""
    counts = {name: len(report.resolved.get(name) or ()) for name in ("tasks", "seeds")}
    words = [f"{number} {name if number > 1 else name[:-1]}" for name, number in counts.items() if number]
    return ", ".join(words) or f"{len(report.tasks) + len(report.failed)} {'tasks' if report.resolved else 'runs'}"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def print_runs(runs: list[ListedRun], console: Console) -> None:
    """Print a table of runs and the commands that show more of them."""
    wide = console.width >= _WIDE
    columns = (
        Column("run", is_text=True),
        *([Column("recipe", is_text=True)] if wide else []),
        Column("task", is_text=True, wraps=True),
        Column("ended", "ago"),
        Column("score %", "student\n%"),
        Column("teacher %", "teacher\n%"),
        Column("tokens"),
        Column("time"),
    )
    rows = []
    for run in runs:
        cells = (
            run.name,
            *([run.recipe or "–"] if wide else []),
            run.task or run.several or "–",
            _ago(run.ended),
            percent(run.score) if run.state == "finished" else run.state,
            percent(run.teacher_score),
            amount(run.tokens),
            duration(run.seconds),
        )
        style = {"finished": "", "running": "bold", "stopped": "dim", "failed": "red", "damaged": "red"}
        rows.append(TableRow(cells, style[run.state]))  # type: ignore[arg-type]
    console.print(as_terminal(ResultTable(columns, tuple(rows))))
    finished = [run.name for run in runs if run.state == "finished" and not run.tasks]
    if any(run.state == "stopped" for run in runs):
        say(console, "stopped: the same `distill run` command goes on where it was")
    for run in runs:
        if run.state == "failed":
            say(console, f"{run.name} failed: {run.reason}")
    if finished:
        say(console, f"the stages of one: distill compare {finished[0]}")
    if len(finished) > 1:
        say(console, f"what a change brought: distill compare {finished[1]} {finished[0]}")


def _ago(ended: str) -> str:
    """Write the time since then: `5 min`, `3 h`, `2 d`."""
    minutes = max(0, time.time() - datetime.fromisoformat(ended).timestamp()) / 60
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} d"
