"""Figures as SVG inside a page: text stays text, and colours follow the page's light or dark theme."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from pipeline.reporting.loss_curves import BLACK, GREY, finish

# Colours that the page replaces by its own; all others are legible on both backgrounds.
_THEMED = {BLACK: "var(--ink)", "#000000": "var(--ink)", GREY: "var(--grey)", "#e6e6e6": "var(--line)"}
_HEADER = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)


def as_svg(figure: Any, name: str, title: str, description: str) -> str:
    """Render a figure as an `<svg>` element.

    Args:
        figure: the figure; its title is left to the page.
        name: unique in the page, because elements refer to each other by ids that are made from it.
        title: name of the picture for whoever cannot see it.
        description: its content in words.
    """
    import matplotlib as mpl

    finish(figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = _METADATA.sub("", _HEADER.sub("", buffer.getvalue()))
    for colour, themed in _THEMED.items():
        text = text.replace(colour, themed)
    head = f'<svg role="img" aria-labelledby="{name}-title {name}-text" class="figure" '
    named = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"{head}\1>{named}", text, count=1)
    return _with_own_ids(text, name)


def _with_own_ids(text: str, name: str) -> str:
    """Prefix every id and every reference to one: all figures of a page share one name space."""
    seen: dict[str, int] = {}

    def own(match: re.Match[str]) -> str:
        found = match[1] if match[1].startswith(f"{name}-") else f"{name}-{match[1]}"
        seen[found] = seen.get(found, 0) + 1
        # Equal images of a figure have the same id; nothing refers to them.
        return f'id="{found}"' if seen[found] == 1 else f'id="{found}-{seen[found]}"'

    text = re.sub(r'\bid="([^"]*)"', own, text)
    text = text.replace('href="#', f'href="#{name}-')
    return text.replace("url(#", f"url(#{name}-")
