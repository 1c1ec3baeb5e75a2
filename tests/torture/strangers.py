"""Tables in the formats of other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


def stranger_table(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """Draw a table with any separator, and with quotes that enclose fields, are part of texts, or are unclosed."""
    texts = ('a "b" c', '"open', 'close"', '"whole"', "a, b", "a\tb; c", "two\nlines", " x", "")
    names = draw(st.sampled_from((["text_a", "label"], ["", "text_a", "label"], [" Text_A ", "LABEL", ""], [])))
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)))
    target = io.StringIO()
    writer = csv.writer(
        target,
        delimiter=draw(st.sampled_from(",\t;|")),
        quoting=quoting,
        escapechar="\\",
        doublequote=draw(st.booleans()),
    )
    writer.writerows([names] if names else [])
    for number in range(draw(st.integers(1, 30))):
        row = [draw(st.sampled_from(texts)), "no yes".split()[number % 2]]
        writer.writerow([number, *row] if len(names) == 3 and not names[0] else row)
    text = target.getvalue().replace('"', "", draw(st.integers(0, 1)))
    return text.encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"))))
