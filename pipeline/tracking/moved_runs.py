"""Runs of stages that go on on another machine, and keep their run in MLflow.

The machine that takes a stage over makes the run's file as if it had written it: every point that MLflow has is in it
and counts as sent. So no step is logged twice, and pictures and reports show the whole curve.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.tracking import run_files
from pipeline.tracking.run_files import Point
from stages.storage.sealed_folder import make_folder

_OF_MACHINES = "system/"
"""Metrics that MLflow measures itself, on each machine anew."""
_ENDED = ("FAILED", "KILLED")
_MOST_RUNS = 100


def take_over(
    client: Any, experiment: str, points: Path, digest: str, *, reused_tag: str, is_owner: bool
) -> str | None:
    """Make the file of the run that another machine began for a stage; return its id, None if there is none.

    Args:
        client: MLflow's client.
        experiment: id of the experiment.
        points: folder of the run files.
        digest: the stage's digest.
        reused_tag: tag of runs that only found the stage.
        is_owner: True if nobody else makes the stage now; otherwise a run that has not ended is somebody's.
    """
    query, newest_first = f"tags.`distill.digest` = '{digest}'", ["attributes.start_time DESC"]
    found = client.search_runs([experiment], query, order_by=newest_first, max_results=_MOST_RUNS)
    run = next((run for run in found if reused_tag not in run.data.tags), None)
    if run is None or run.info.status == "FINISHED" or not (is_owner or run.info.status in _ENDED):
        return None
    run_id = str(run.info.run_id)
    path = points / f"{run_id}.jsonl"
    if not path.exists():
        header = {"name": str(run.info.run_name), "params": dict(run.data.params), "tags": dict(run.data.tags)}
        _write(path, int(run.info.start_time), header, _points_of(client, run))
    return run_id


def went_on_elsewhere(client: Any, path: Path, run_id: str) -> bool:
    """Return whether another machine has finished a run whose process died here."""
    end = run_files.read_end(path)
    if end is None or end[0] == "FINISHED":
        return False
    return str(client.get_run(run_id).info.status) == "FINISHED"


def _points_of(client: Any, run: Any) -> list[Point]:
    """Every point that MLflow has of a run, in the order of their times."""
    metrics: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for name in run.data.metrics:
        if not name.startswith(_OF_MACHINES):
            for value in client.get_metric_history(run.info.run_id, name):
                metrics[int(value.timestamp), int(value.step)][name] = float(value.value)
    return [Point(step, time, values) for (time, step), values in sorted(metrics.items())]


def _write(path: Path, began: int, header: dict[str, Any], points: list[Point]) -> None:
    lines: list[dict[str, Any]] = [{"time": began, "header": header}]
    lines += [{"step": point.step, "time": point.time, "metrics": point.metrics} for point in points]
    text = "".join(json.dumps({"run": path.stem, **line}, ensure_ascii=False) + "\n" for line in lines)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    # The note first: a process that is killed in between sends nothing twice.
    run_files.note_sent(path, offset=len(text.encode("utf-8")))
    beside.replace(path)
