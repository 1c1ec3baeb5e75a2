"""Answers to questions, decoded from the logits of their contexts' windows."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import regex
from numpy.typing import NDArray

_CHARACTER = regex.compile(r"\X")
# Separators, controls, and marks that belong to the character before: tokenizers may drop them.
_DROPPED = ("Z", "C", "M")


def best_span(
    logits: NDArray[np.float32], spans: NDArray[np.int32], *, max_tokens: int
) -> tuple[float, tuple[int, int]] | None:
    """Return the span of the context with the highest sum of start and end logit.

    All spans of at most `max_tokens` tokens are compared, where published code compares those of the twenty best starts
    and ends. Ties go to the first and shortest span.

    Args:
        logits: (tokens, 2) start and end logits of one window.
        spans: (tokens, 2) characters of the context, -1 outside it.
        max_tokens: longest answer.

    Returns:
        The sum, the first character, and the character after the last; None where the window holds no context.
    """
    context = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if not len(context):
        return None
    start, end = logits[context, 0].astype(np.float64), logits[context, 1].astype(np.float64)
    most = min(max_tokens, len(context))
    sums = np.full((len(context), most), -np.inf)
    for more in range(most):
        sums[: len(context) - more, more] = start[: len(context) - more] + end[more:]
    start_index, length = np.unravel_index(int(sums.argmax()), sums.shape)
    first, last = context[start_index], context[start_index + length]
    return float(sums[start_index, length]), (int(spans[first, 0]), int(spans[last, 1]))


def covered_part(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the part of a span that every tokenizer covers: without surrounding blanks and final marks."""
    while end > start and unicodedata.category(text[end - 1])[0] in _DROPPED:
        end -= 1
    while start < end and unicodedata.category(text[start])[0] in _DROPPED:
        start += 1
    return start, end


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span of a text, extended to whole grapheme clusters: a letter with its accents, an emoji."""
    # No grapheme cluster extends over a blank to its left.
    first = text.rfind(" ", 0, start) + 1
    for cluster in _CHARACTER.finditer(text, first):
        if cluster.start() <= start:
            first = cluster.start()
        if cluster.end() >= end:
            return first, cluster.end()
    return first, len(text)


@dataclass(frozen=True)
class ChosenSpan:
    """The answer to a question."""

    start: int
    """First character in the context."""
    end: int
    """The character after the last; `start` where there is no answer."""
    window: int
    """Number of the window that it was found in."""
    total: float
    """Sum of its start and end logit there."""


def decode_answers(
    logits: Sequence[NDArray[np.float32]],
    spans: Sequence[NDArray[np.int32]],
    examples: NDArray[np.int64],
    contexts: Sequence[str],
    *,
    max_tokens: int,
    no_answer: bool,
) -> list[str]:
    """Return the text of an answer per question, "" where there is none; arguments as of `choose_spans`."""
    chosen = choose_spans(logits, spans, examples, contexts, max_tokens=max_tokens, no_answer=no_answer)
    return [context[span.start : span.end] for context, span in zip(contexts, chosen, strict=True)]


def choose_spans(
    logits: Sequence[NDArray[np.float32]],
    spans: Sequence[NDArray[np.int32]],
    examples: NDArray[np.int64],
    contexts: Sequence[str],
    *,
    max_tokens: int,
    no_answer: bool,
) -> list[ChosenSpan]:
    """Return an answer per question: the best span of its windows, or none where "no answer" scores higher.

    The score of "no answer" is the least sum of the first token's start and end logits over the windows (Devlin et al.
    2019, section 4.3, with the threshold 0).

    Args:
        logits: (tokens, 2) of every window.
        spans: (tokens, 2) of every window.
        examples: (windows,) the question that each window belongs to.
        contexts: the context of each question.
        max_tokens: tokens of the longest answer.
        no_answer: True where "no answer" is a possible answer.
    """
    best: list[ChosenSpan | None] = [None] * len(contexts)
    silent = [ChosenSpan(0, 0, 0, np.inf)] * len(contexts)
    for window, example in enumerate(examples.tolist()):
        candidate = best_span(logits[window], spans[window], max_tokens=max_tokens)
        kept = best[example]
        if candidate is not None and (kept is None or candidate[0] > kept.total):
            best[example] = ChosenSpan(*candidate[1], window, candidate[0])
        silence = float(logits[window][0].sum(dtype=np.float64))
        if silence < silent[example].total:
            silent[example] = ChosenSpan(0, 0, window, silence)
    return [
        silence if span is None or (no_answer and silence.total > span.total) else _without_blanks(context, span)
        for context, span, silence in zip(contexts, best, silent, strict=True)
    ]


def _without_blanks(context: str, span: ChosenSpan) -> ChosenSpan:
    """Return a span of whole characters, without the blanks around it."""
    first, past = whole_characters(context, span.start, span.end)
    text = context[first:past]
    first += len(text) - len(text.lstrip())
    return replace(span, start=first, end=first + len(text.strip()))
