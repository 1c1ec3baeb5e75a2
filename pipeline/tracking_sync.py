"""Sends what was kept in local files while MLflow's server was away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pipeline import tracking_points as kept
from pipeline.tracking import Tracking
from pipeline.tracking_points import PointFile


def sync(
    uri: str, experiment: str, points: Path, *, artifacts: Path | None = None
) -> tuple[int, int]:
    """Sends the points that no server has yet; returns the number of files sent and left.

    A run that began while the server was away is made now, with its parameters and tags.
    """
    tracking = Tracking.open(uri, experiment, points, artifacts=artifacts)
    sent = left = 0
    for path in sorted(points.glob("*.jsonl")):
        file = PointFile(path)
        if file.all_sent() or (run_id := tracking.run_for(file)) is None:
            left += not file.all_sent()
            continue
        tracking.worker.watch(run_id, file)
        whole = tracking.worker.flush(run_id)
        tracking.worker.forget(run_id)
        end = kept.read_end(path)
        if whole and end is not None:
            tracking.ask("the run's end", partial(_terminate, run_id=run_id, status=end))
        sent, left = sent + whole, left + (not whole)
    tracking.close()
    return sent, left


def _terminate(client: Any, *, run_id: str, status: str) -> None:
    client.set_terminated(run_id, status)
