"""Figure of a stage's training losses, and what all figures share.

Figures are PNG bytes; they need no display and leave matplotlib's global state alone.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.process.terminal import safe
from pipeline.tracking.run_files import Point, read_points

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLACK = "#1a1a1a"
GREY = "#5f5f5f"
_TOKENS = ("train/tokens", "train/tokens_seen", "tokens")
_RATE = "train/learning_rate"
_TOTAL = "train/loss"


def loss_curves(points: Path | Sequence[Point], title: str) -> bytes:
    """Draw the figure of `loss_curve_figure` as PNG."""
    return as_png(loss_curve_figure(points, title))


def loss_curve_figure(points: Path | Sequence[Point], title: str) -> Any:
    """Draw the training losses of a stage over tokens (or steps), with the learning rate below.

    Args:
        points: the stage's points, or its local file of them.
        title: title of the figure.
    """
    points = list(read_points(points)) if isinstance(points, Path) else points
    figure = new_figure(8.0, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    tokens = _tokens(points)
    ends: list[tuple[float, str, str]] = []
    colours = itertools.cycle(COLOURS)
    for name in _loss_names(points):
        colour = BLACK if name == _TOTAL else next(colours)
        line = [(step, value) for step, value in _values(points, name) if value > 0]
        if line:
            xs = [tokens.get(step, step) if tokens else step for step, _ in line]
            ys = [value for _, value in line]
            _draw(upper, xs, ys, colour)
            ends.append((ys[-1], _plain(name), colour))
    upper.set_yscale("log")
    upper.set_ylabel("training loss")
    upper.set_title(title, loc="left", fontsize=12, fontweight="bold")
    _plain_log_ticks(upper)
    _label_ends(upper, ends)
    rate = _values(points, _RATE)
    lower.plot([tokens.get(s, s) if tokens else s for s, _ in rate], [v for _, v in rate], color=GREY)
    lower.set_ylim(bottom=0)
    lower.set_ylabel("learning\nrate")
    lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    lower.set_xlabel("tokens" if tokens else "optimizer step")
    if tokens:
        from matplotlib.ticker import EngFormatter

        lower.xaxis.set_major_formatter(EngFormatter(sep=" "))
    return figure


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sized in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Any) -> None:
    """Give a figure what all figures have: no frame above and on the right, small labels, and no formulas."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    _without_formulas(figure)


def as_png(figure: Any) -> bytes:
    """Render a figure as PNG."""
    finish(figure)
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)  # `savefig` would draw it twice
    return buffer.getvalue()


def reduced(png: bytes, width: int = 720) -> bytes:
    """A picture at a width in pixels that fits where it cannot be scaled, as in MLflow's descriptions."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.thumbnail((width, picture.height))
        picture.save(buffer, format="png")
    return buffer.getvalue()


def _without_formulas(figure: Any) -> None:
    """Switch formulas off: matplotlib would read one between two `$` of a folder, task or class.

    Numbers on the axes keep theirs, for powers of ten.
    """
    from matplotlib.ticker import FixedFormatter

    texts = [figure._suptitle] if figure._suptitle is not None else []
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        texts += axes.legend_.get_texts() if axes.legend_ is not None else []
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), FixedFormatter):
                texts += axis.get_ticklabels()
    for text in texts:
        text.set_parse_math(False)
        text.set_text(safe(text.get_text()))


def _loss_names(points: Sequence[Point]) -> list[str]:
    names = dict.fromkeys(name for point in points for name in point.metrics)
    return [name for name in names if name.startswith("train/") and name.endswith("loss") and name.count("/") == 1]


def _values(points: Sequence[Point], name: str) -> list[tuple[int, float]]:
    values = [(point.step, point.metrics[name]) for point in points if name in point.metrics]
    return [(step, value) for step, value in values if math.isfinite(value)]


def _tokens(points: Sequence[Point]) -> dict[int, float]:
    """Tokens seen by step; empty if no metric counts them."""
    for name in _TOKENS:
        values = dict(_values(points, name))
        ordered = [values[step] for step in sorted(values)]
        if len(ordered) > 1 and ordered == sorted(ordered):
            return values
    return {}


def _plain(name: str) -> str:
    return name.removeprefix("train/").removesuffix("_loss").replace("_", " ") if name != _TOTAL else "total"


def _draw(axes: Any, xs: list[float], ys: list[float], colour: str) -> None:
    """Draw the points in a pale line, and their running mean over a fiftieth of them, which shows the trend."""
    window = max(1, len(ys) // 50)
    if window == 1:
        axes.plot(xs, ys, color=colour, linewidth=1.6)
        return
    axes.plot(xs, ys, color=colour, linewidth=0.6, alpha=0.3)
    means = [
        math.exp(sum(math.log(y) for y in part) / len(part))
        for part in (ys[max(0, i - window + 1) : i + 1] for i in range(len(ys)))
    ]
    axes.plot(xs, means, color=colour, linewidth=1.8)


def _plain_log_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.get_ylim()
    narrow = high / low < 100
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)


def _label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write names at the ends of the lines, shifted if they would overlap."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    position = -math.inf
    for y, name, colour in sorted(ends):
        position = max((math.log(y) - low) / (high - low), position + 0.055)
        axes.annotate(
            name,
            (1.0, position),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=10,
            va="center",
            annotation_clip=False,
        )
