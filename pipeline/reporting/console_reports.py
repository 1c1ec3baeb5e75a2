"""Reports as the command line prints them: of runs, of what `gc` removes and of what `sync` sends."""

from __future__ import annotations

from rich.console import Console

from pipeline.process.terminal import say
from pipeline.reporting import run_table, tasks_table
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.shipping_table import shipping_lines, shipping_table
from pipeline.reporting.spread_table import group_table
from pipeline.store.garbage import Garbage
from pipeline.tracking.server import Amount, SyncReport
from schemas.results.manifest import RunReport
from schemas.results.report import AnyReport


def print_report(report: AnyReport, console: Console, *, mlflow: tuple[str | None, str]) -> None:
    """Print a run's tables, the lines below them and what to do next.

    Args:
        report: the run.
        console: where to print.
        mlflow: the command that starts MLflow's UI (null where a server runs already), and the UI's address.
    """
    command, server = mlflow
    console.print()
    if isinstance(report, RunReport):
        tables = [run_table.run_table(report, with_candidates=False), run_table.candidates_table(report)]
        lines, link = run_table.summary(report), run_table.comparison_link(report, server)
    else:
        tables = [group_table(report)]
        lines, link = tasks_table.summary(report), tasks_table.comparison_link(report, server)
    for table in filter(None, tables):
        console.print(as_terminal(table))
    lines += [f"open MLflow's UI: {command}"] if command else []
    several = "stages" if isinstance(report, RunReport) else "runs" if report.is_spread else "tasks"
    lines += [f"the {several} side by side: {link}"] if link else []
    for line in lines:
        say(console, line)
    if isinstance(report, RunReport) and report.shipping is not None:
        console.print(as_terminal(shipping_table(report.shipping)))
        for line in shipping_lines(report.shipping, report.run):
            say(console, line)
        if report.shipping.python is not None:
            say(console, "use it in Python:")
            for line in report.shipping.python.splitlines():
                say(console, f"    {line}")


def print_garbage(garbage: Garbage, console: Console) -> None:
    """Print what `gc` would remove, or has removed."""
    columns = (
        Column("removed" if garbage.removed else "would be removed", is_text=True, wraps=True),
        Column("MB"),
        Column("days old"),
        Column("reason", is_text=True, wraps=True),
    )
    rows = tuple(
        TableRow((piece.path, f"{piece.size / 1e6:,.1f}", f"{piece.age / 86400:.1f}", piece.reason))
        for piece in garbage.pieces
    )
    if rows:
        console.print(as_terminal(ResultTable(columns, rows)))
    for path in garbage.in_use:
        say(console, f"kept, because another process uses it: {path}")
    total = f"{garbage.size / 1e6:,.1f} MB in {len(rows)} {'place' if len(rows) == 1 else 'places'}"
    if garbage.removed:
        say(console, f"removed {total} of {garbage.store}")
    elif rows:
        say(console, f"{total} of {garbage.store}; `distill gc --yes` removes them")
    else:
        say(console, f"nothing to remove in {garbage.store}")


def print_sync(report: SyncReport, console: Console) -> None:
    """Print what was sent of each run, and what is left."""
    columns = (
        Column("run", is_text=True, wraps=True),
        Column("MLflow's run", is_text=True),
        Column("sent", is_text=True, wraps=True),
        Column("still here", is_text=True, wraps=True),
    )
    rows = []
    for run in report.runs:
        reason = f": {run.reason}" if run.left and run.reason else ""
        rows.append(TableRow((run.name, run.run_id or "–", str(run.sent), f"{run.left}{reason}")))
    if rows:
        console.print(as_terminal(ResultTable(columns, tuple(rows))))
    for complaint in report.refused:
        say(console, f"MLflow refused {complaint}")
    if not rows:
        say(console, f"nothing is kept for MLflow in {report.store}")
        return
    sent = sum((run.sent for run in report.runs), Amount())
    left = sum((run.left for run in report.runs), Amount())
    count = sum(bool(run.sent) for run in report.runs)
    say(
        console,
        f"sent to {report.server}: {sent} of {count} {'run' if count == 1 else 'runs'}; still here: {left}",
    )
