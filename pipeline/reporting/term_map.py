"""Figure of how well a stage learned each term at each block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.reporting.loss_curves import as_png, new_figure
from pipeline.tracking.run_files import Point, read_points

SHARE = "train/gradient_share/"
_TERM = re.compile(r"^train/(?P<name>\w+?)_loss(?P<teacher>_teacher_\d+)?(?:_layer_(?P<layer>\d+))?$")
_WHOLE = "–"
"""The column of terms without blocks."""

Cells = dict[tuple[str, str], float]
"""A value for each term (row) and block (column)."""


def term_map(points: Path | Sequence[Point], title: str) -> bytes:
    """Draw the remaining share of each term's first loss, and its share of the gradient, block by block.

    Args:
        points: the stage's points, or its local file of them.
        title: title of the figure.
    """
    points = list(read_points(points)) if isinstance(points, Path) else points
    left = remaining(points)
    shares = last_shares(points)
    rows = list(dict.fromkeys(row for row, _ in left))
    columns = sorted({column for _, column in left}, key=lambda name: (name != _WHOLE, len(name), name))
    figure = new_figure(4.5 + 1.3 * len(columns), 1.9 + 0.45 * len(rows))
    axes = figure.subplots(1, 2 if shares else 1, squeeze=False)[0]
    _heat(axes[0], left, rows, columns, "last loss as a share of the first", above="#f6d5c3")
    if shares:
        _heat(axes[1], shares, rows, columns, "share of the gradient", above="#c9dff0")
        axes[1].set_yticklabels([])
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return as_png(figure)


def remaining(points: Sequence[Point]) -> Cells:
    """Return the ratio of each term's last logged mean to its first."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for point in points:
        for name, value in point.metrics.items():
            first.setdefault(name, value)
            last[name] = value
    blocks = {match["name"] for name in first if (match := _TERM.match(name)) and match["layer"]}
    cells: Cells = {}
    for name in first:
        cell = _cell(name)
        summed = cell is not None and cell[1] == _WHOLE and cell[0] in blocks
        if cell is None or summed or not first[name]:
            continue
        cells[cell] = last[name] / first[name]
    return cells


def last_shares(points: Sequence[Point]) -> Cells:
    """Return each term's share of the gradient at the last measurement."""
    measured: Mapping[str, float] = {}
    for point in points:
        if any(name.startswith(SHARE) for name in point.metrics):
            measured = point.metrics
    cells: Cells = {}
    for name, value in measured.items():
        cell = _cell("train/" + name.removeprefix(SHARE)) if name.startswith(SHARE) else None
        if cell is not None:
            cells[cell] = value
    return cells


def _cell(metric: str) -> tuple[str, str] | None:
    match = _TERM.match(metric)
    if match is None or metric == "train/loss":
        return None
    name = match["name"].replace("_", " ") + (match["teacher"] or "").replace("_", " ")
    return name, _WHOLE if match["layer"] is None else f"block {match['layer']}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %"


def _heat(axes: Any, cells: Cells, rows: Sequence[str], columns: Sequence[str], title: str, *, above: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    colours = LinearSegmentedColormap.from_list("pale", [to_rgb("white"), to_rgb(above)])
    highest = max((value for value in cells.values()), default=1.0) or 1.0
    grid = [[cells.get((row, column), float("nan")) for column in columns] for row in rows]
    axes.imshow(grid, cmap=colours, vmin=0, vmax=highest, aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (value := cells.get((row, column))) is not None:
                axes.text(x, y, _percent(value), ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[:].set_visible(False)
