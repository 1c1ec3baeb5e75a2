"""Figures of the HTML report that no other place shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.html.findings import AttentionView
from pipeline.reporting.loss_curves import BLACK, COLOURS, GREY, new_figure
from schemas.results.shipping import Shipping
from stages.scores.calibration import Calibration

_MAP = "viridis"
_ON_DARK, _ON_LIGHT = "#ffffff", "#111111"


def similarity_figure(similarity: Mapping[str, NDArray[np.float64]]) -> Any:
    """Draw the nearness of student's and teacher's layers after each stage, a panel for each."""
    figure = new_figure(0.8 + 3.0 * len(similarity), 3.0)
    panels = figure.subplots(1, len(similarity), squeeze=False, sharey=True)[0]
    for axes, (name, values) in zip(panels, similarity.items(), strict=True):
        axes.imshow(values, vmin=0, vmax=1, cmap=_MAP, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            colour = _ON_LIGHT if value > 0.6 else _ON_DARK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xticks(range(values.shape[1]))
        axes.set_yticks(range(values.shape[0]))
        axes.set_xlabel("teacher's layer")
    panels[0].set_ylabel("student's layer")
    return figure


def attention_figure(view: AttentionView) -> Any:
    """Draw the attention of the last blocks of teacher and student for one text, side by side."""
    size = max(2.6, 0.24 * len(view.pieces))
    figure = new_figure(2 * size + 1.2, size + 0.6)
    panels = figure.subplots(1, 2, sharey=True)
    largest = max(float(view.teacher.max()), float(view.student.max()))
    for axes, values, name in zip(panels, (view.teacher, view.student), ("teacher", "student"), strict=True):
        axes.imshow(values, vmin=0, vmax=largest, cmap=_MAP)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xticks(range(len(view.pieces)), view.pieces, rotation=90)
        axes.set_yticks(range(len(view.pieces)), view.pieces)
    return figure


def calibration_figure(calibrations: Mapping[str, Calibration]) -> Any:
    """Draw the share of right answers over the probability that a model gave them; points grow with their rows."""
    figure = new_figure(4.6, 4.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for colour, (name, found) in zip(COLOURS, calibrations.items(), strict=False):
        sizes = 12 + 180 * found.rows / max(found.rows.sum(), 1)
        label = f"{name}, error {100 * found.error:.1f} %"
        axes.plot(found.confidence, found.accuracy, color=colour, linewidth=1.5, label=label)
        axes.scatter(found.confidence, found.accuracy, s=sizes, color=colour)
    axes.set_xlabel("probability of the answer")
    axes.set_ylabel("share of right answers")
    axes.legend(frameon=False, fontsize=9, labelcolor=BLACK)
    return figure


def shipping_figure(shipping: Shipping, metric: str) -> Any:
    """Draw the score of every form, with its interval, over its latency; points grow with the size on disk."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    largest = max(form.size for form in shipping.forms)
    for index, (colour, form) in enumerate(zip(COLOURS, shipping.forms, strict=False)):
        if form.score is None:
            continue
        # Above and below in turn: neighbours often have nearly the same score.
        side = 1 if index % 2 == 0 else -1
        area = 40 + 900 * form.size / largest
        point = (form.latency.processor_ms, 100 * form.score.value)
        axes.scatter(*point, s=area, color=colour, alpha=0.75)
        axes.vlines(point[0], 100 * form.score.low, 100 * form.score.high, color=colour, linewidth=1, alpha=0.6)
        axes.annotate(
            f"{form.name}, {form.size / 1e6:.0f} MB",
            point,
            xytext=(0, side * (6 + (area**0.5) / 2)),
            textcoords="offset points",
            ha="center",
            va="bottom" if side > 0 else "top",
            fontsize=9,
            color=BLACK,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.35, y=0.3)
    axes.set_xlabel("processor time of a text, ms")
    axes.set_ylabel(f"{metric} %")
    return figure
