"""Sends what was kept in local files while MLflow's server was away."""

from __future__ import annotations

import warnings
from pathlib import Path

from rich.console import Console

from pipeline.process.settings import Settings
from pipeline.process.terminal import say
from pipeline.tracking import points as kept
from pipeline.tracking.client import refusals, wants_login
from pipeline.tracking.moved_store import was_moved
from pipeline.tracking.points import PointFile
from pipeline.tracking.server import Amount, Server, unsent
from pipeline.tracking.worker import Rejected, brief
from schemas.core.base import Frozen
from schemas.core.credentials import without_credentials


class SyncedRun(Frozen):
    """What was kept of one run, and what became of it."""

    name: str
    """The run's or the stage's name."""
    key: str
    """Its file in the store's `points/`, without the ending."""
    run_id: str | None
    """MLflow's id; null while no server knows the run."""
    sent: Amount = Amount()
    """What was sent now."""
    left: Amount = Amount()
    """What is still kept here alone."""
    reason: str | None = None
    """Why something is left."""


class SyncReport(Frozen):
    """What `distill sync` did."""

    server: str
    """MLflow's address, credentials taken out."""
    store: str
    """The store's folder."""
    runs: tuple[SyncedRun, ...]
    """Every run of which something was kept."""
    refused: tuple[str, ...] = ()
    """What the server said no to for good, and why; it is not kept any longer."""
    failure: str | None = None
    """Why the server could not be reached, or not to the end."""


def sync(settings: Settings, points: Path) -> SyncReport:
    """Send everything that no server has yet; a run that no server knows is made, with all that it was told.

    Args:
        settings: MLflow's address.
        points: the store's folder of points.
    """
    kept.end_dead_runs(points)
    address = without_credentials(settings.tracking_uri)
    if (
        settings.tracking_uri.startswith("sqlite:")
        and not _waiting(points)
        and not was_moved(settings.tracking_uri, settings.artifacts)
    ):
        return SyncReport(server=address, store=str(settings.store), runs=())
    complaints: list[str] = []
    runs: list[SyncedRun] = []
    failure: Exception | None = None
    # MLflow and SQLAlchemy disagree about deprecations.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            server = Server(
                settings.tracking_uri,
                settings.experiment,
                points,
                artifacts=settings.artifacts,
                complain=lambda what, error: complaints.append(f"{what}: {brief(error)}"),
            )
            server.probe()
        except Exception as error:  # drivers and transports raise what they like
            runs, failure = [_kept(path) for path in _waiting(points)], error
        else:
            runs, failure = deliver_all(server, points)
    return SyncReport(
        server=address,
        store=str(settings.store),
        runs=tuple(runs),
        refused=tuple(complaints),
        failure=None if failure is None else _failure(address, points, failure),
    )


def _failure(address: str, points: Path, error: Exception) -> str:
    if wants_login(error):
        why = "wants other credentials"
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    else:
        why = f"cannot be reached ({brief(error)})"
        remedy = "start the server, or name another with MLFLOW_TRACKING_URI,"
    return f"MLflow at {address} {why}; what it does not have stays in {points}: {remedy} and run distill sync again"


def deliver_all(server: Server, points: Path) -> tuple[list[SyncedRun], Exception | None]:
    """Send everything kept in `points`, run after run; one that a living process writes is left to it.

    Returns:
        What became of every run of which something was kept, and the failure that ended it, if one did.
    """
    runs: list[SyncedRun] = []
    failure: Exception | None = None
    for path in _waiting(points):
        if failure is not None:
            runs.append(_kept(path))
            continue
        handle = kept.claim(path)
        try:
            if handle is None:
                runs.append(_kept(path, reason="it is still going on"))
                continue
            run, failure = _delivered(server, path)
            runs.append(run)
        finally:
            kept.release(handle)
    return runs, failure


def _waiting(points: Path) -> list[Path]:
    return [path for path in sorted(points.glob("*.jsonl")) if unsent(path)]


def _delivered(server: Server, path: Path) -> tuple[SyncedRun, Exception | None]:
    sent = Amount()
    try:
        with refusals():
            run_id = server.run_of(path)
        server.knows(run_id)
        for part in server.deliver(PointFile(path)):
            sent += part
    except Rejected as error:
        return _kept(path, sent, f"MLflow refuses it: {brief(error)}"), None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        # Of this file alone: it must not keep the others back.
        return _kept(path, sent, f"it cannot be read ({type(error).__name__})"), None
    except Exception as error:  # as in sync
        return _kept(path, sent), error
    return _kept(path, sent), None


def _kept(path: Path, sent: Amount = Amount(), reason: str | None = None) -> SyncedRun:  # noqa: B008  (frozen)
    return SyncedRun(
        name=str(kept.read_header(path).get("name", path.stem)),
        key=path.stem,
        run_id=kept.server_run(path),
        sent=sent,
        left=unsent(path),
        reason=reason,
    )


def print_sync(report: SyncReport, console: Console) -> None:
    """What was sent of which runs, and what is left, a line each."""
    for run in report.runs:
        known = f" (run {run.run_id})" if run.run_id else ""
        parts = [f"sent {_amount(run.sent)}"] if run.sent else []
        if run.left:
            parts.append(f"still here {_amount(run.left)}" + (f": {run.reason}" if run.reason else ""))
        say(console, f"{run.name}{known}: {'; '.join(parts)}")
    for complaint in report.refused:
        say(console, f"MLflow refused {complaint}")
    if not report.runs:
        say(console, f"nothing is kept for MLflow in {report.store}")
        return
    sent = sum((run.sent for run in report.runs), Amount())
    left = sum((run.left for run in report.runs), Amount())
    number = sum(bool(run.sent) for run in report.runs)
    say(
        console,
        f"sent to {report.server}: {_amount(sent)} of {number} {'run' if number == 1 else 'runs'}; "
        f"still here: {_amount(left)}",
    )


def _amount(amount: Amount) -> str:
    parts = [
        f"{number:,} {word if number == 1 else word + 's'}"
        for number, word in ((amount.points, "point"), (amount.artifacts, "artifact"), (amount.notes, "note"))
        if number
    ]
    return ", ".join(parts) or "nothing"
