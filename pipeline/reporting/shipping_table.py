"""The table of what is shipped: a student's forms beside its teacher, and the lines below it."""

from __future__ import annotations

import shlex

from pipeline.reporting.result_table import Column, ResultTable, TableRow
from pipeline.reporting.run_table import percent, with_interval
from schemas.results.latency import Latency
from schemas.results.shipping import Form, Shipping

_LONGEST_EXAMPLE = 160


def shipping_table(shipping: Shipping) -> ResultTable:
    """Return a row for each form, the teacher's first."""
    reference = shipping.forms[0]
    columns = (
        Column("what you ship", is_text=True),
        Column("MB"),
        Column("smaller"),
        Column("ms a text"),
        Column("times faster"),
        Column("score %"),
        Column("same answers %", "same %"),
    )
    return ResultTable(columns, tuple(TableRow(_cells(form, reference)) for form in shipping.forms))


def _cells(form: Form, reference: Form) -> tuple[str, ...]:
    return (
        form.name,
        f"{form.size / 1e6:.1f}",
        f"{reference.size / form.size:.1f}",
        f"{form.latency.wall_ms:.2f}",
        ratio(form.latency),
        with_interval(form.score),
        percent(form.same_answers),
    )


def ratio(latency: Latency) -> str:
    """Write how many times faster a model is than the reference, with the lowest and the highest round."""
    return f"{latency.times_faster:.1f} ({latency.times_faster_low:.1f} to {latency.times_faster_high:.1f})"


def shipping_lines(shipping: Shipping, run: str) -> list[str]:
    """Say how the forms were measured, and how to get them."""
    remark = "; other programs were running, so the times are too long" if shipping.is_busy else ""
    remark += "; measured by an earlier run" if shipping.is_kept else ""
    lines = [
        f"ms: median of one text of {shipping.texts}, one thread, {shipping.rounds} rounds in turn; times faster: by "
        f"processor time, with the lowest and the highest round; {shipping.processor}{remark}"
    ]
    if shipping.has_exports:
        lines.append(f"ship it: distill export {run} --to student --onnx --int8 dynamic, or distill register {run}")
    else:
        lines.append(f"ship it: distill export {run} --to student; smaller and faster with the extra onnx")
    lines.append(f"the run as one page: distill report {run}")
    if shipping.example is not None:
        lines.append(f"try it: distill predict {run} {_arguments(shipping.example)}")
    return lines


def _arguments(example: dict[str, str]) -> str:
    """Write a row as arguments of `distill predict`; a long row, or one with signs of control, as a placeholder."""
    texts = {
        name: shlex.quote(text) if text.isprintable() and len(text) <= _LONGEST_EXAMPLE else f'"{placeholder}"'
        for name, placeholder in (("text", "a text"), ("text_pair", "its second text"))
        if (text := example.get(name)) is not None
    }
    # A text that begins with a dash would be taken for an option.
    first = f"-- {texts['text']}" if example["text"].startswith("-") else texts["text"]
    return f"--pair={texts['text_pair']} {first}" if "text_pair" in texts else first
