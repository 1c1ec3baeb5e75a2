"""Answers to questions, decoded from the logits of their contexts' windows."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

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


def whole_characters(text: str, start: int, end: int) -> str:
    """Return a span of a text, extended to whole grapheme clusters: a letter with its accents, an emoji."""
    # No grapheme cluster extends over a blank to its left.
    first = text.rfind(" ", 0, start) + 1
    for cluster in _CHARACTER.finditer(text, first):
        if cluster.start() <= start:
            first = cluster.start()
        if cluster.end() >= end:
            return text[first : cluster.end()]
    return text[first:]


def decode_answers(
    logits: Sequence[NDArray[np.float32]],
    spans: Sequence[NDArray[np.int32]],
    examples: NDArray[np.int64],
    contexts: Sequence[str],
    *,
    max_tokens: int,
    no_answer: bool,
) -> list[str]:
    """Return an answer per question: the best span of its windows, or "" where "no answer" scores higher.

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
    best: list[tuple[float, tuple[int, int]] | None] = [None] * len(contexts)
    silent = np.full(len(contexts), np.inf)
    for window, example in enumerate(examples.tolist()):
        candidate = best_span(logits[window], spans[window], max_tokens=max_tokens)
        kept = best[example]
        if candidate is not None and (kept is None or candidate[0] > kept[0]):
            best[example] = candidate
        silent[example] = min(silent[example], float(logits[window][0].sum(dtype=np.float64)))
    answers = []
    for context, span, silence in zip(contexts, best, silent, strict=True):
        if span is None or (no_answer and silence > span[0]):
            answers.append("")
        else:
            answers.append(whole_characters(context, *span[1]).strip())
    return answers
