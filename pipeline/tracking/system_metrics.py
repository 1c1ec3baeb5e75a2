"""Use of the processor, the memory and the GPU while a run trains, by MLflow's own monitors.

MLflow's own logger sends to the server from its thread, past the local files, and loses what a server does not take.
Here the monitors' values are points of the run like all others: on disk first.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.tracking.run_files import read_start
from pipeline.tracking.session import TrackedRun

_SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
_FIRST_SECONDS, _GROWTH, _LONGEST_SECONDS = 5.0, 1.2, 60.0
"""Wait before the first sample, its growth from sample to sample, and its limit: minutes get a curve, and a week gets
some ten thousand points."""
log = logging.getLogger(__name__)


@contextmanager
def system_metrics(run: TrackedRun, first_seconds: float = _FIRST_SECONDS) -> Iterator[None]:
    """Log samples as metrics `system/…` of the run while the block runs, unless MLflow's switch for them is off."""
    if os.environ.get(_SWITCH, "").lower() in ("false", "0"):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_sample, args=(run, ended, first_seconds), name="distill-system", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sample(run: TrackedRun, ended: threading.Event, wait: float) -> None:
    monitors: list[Any] = []
    while not ended.wait(wait):
        wait = min(wait * _GROWTH, _LONGEST_SECONDS)
        try:
            monitors = monitors or _monitors()
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            # Seconds since the run's start, so that a resumed run goes on where it was.
            began = read_start(run.points) or 0
            run.log(max(0, round(time.time() - began / 1000)), values)
        except Exception as error:  # drivers of GPUs raise what they like, and a run needs none of this
            log.debug("no further system metrics (%s: %s)", type(error).__name__, error)
            return


def _monitors() -> list[Any]:
    """MLflow's monitors of what this machine has."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
    try:
        monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
    except Exception as error:  # no driver, or no library that asks it
        log.debug("no GPU is monitored (%s)", error)
    return monitors
