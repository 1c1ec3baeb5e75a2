"""Metric values read back from MLflow."""

from __future__ import annotations

from typing import Any


def history(client: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
    """Return all values of a metric by step."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
