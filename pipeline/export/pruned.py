"""A student whose vocabulary is pruned to the pieces of its task's training texts, and what that costs on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.export.subject import Subject
from schemas.core.errors import ConfigError
from schemas.results.export import VocabularyCut
from stages.data.batching.tokens import Tokens
from stages.data.tasks.tokenize import tokenize_split
from stages.export.vocabulary import prune, used_pieces
from stages.judge import task_scorers

TASK = "task"


def pruned(subject: Subject, source: str, cache: Path) -> tuple[Subject, VocabularyCut]:
    """Return the subject with a smaller vocabulary, and how its answers to the checked texts changed.

    Args:
        subject: the student.
        source: `task`, or a text file whose words stay as well.
        cache: folder of tokenised data.

    Raises:
        ConfigError: there is no such file, the student has no task, or its tokenizer is of an unknown kind.
    """
    if subject.scorer is None:
        raise ConfigError("--prune-vocabulary keeps the words of a task, and this checkpoint has none; leave it out")
    used = set(np.unique(subject.other.ids).tolist()) | _of_file(subject, source)
    kept = used_pieces(subject.tokenizer, used)
    model, tokenizer = prune(subject.model, subject.tokenizer, kept)
    rows = subject.scorer.rows.task
    scorer = task_scorers(
        rows, tokenizer, max_length=subject.max_length, cache=cache, max_rows=len(subject.scorer.rows.chosen)
    )["validation"]
    train = tokenize_split(rows, "train", tokenizer, max_length=subject.max_length, cache=cache)
    smaller = replace(
        subject,
        model=model,
        tokenizer=tokenizer,
        scorer=scorer,
        checked=scorer.rows.tokens,
        other=train,
    )
    return smaller, _loss(subject, smaller, np.asarray(kept))


def _of_file(subject: Subject, source: str) -> set[int]:
    if source == TASK:
        return set()
    file = Path(source)
    if not file.is_file():
        raise ConfigError(
            f"--prune-vocabulary {source}: give `{TASK}`, or the path of a text file whose words stay too"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    return {number for ids in subject.tokenizer(lines)["input_ids"] for number in ids} if lines else set()


def _loss(whole: Subject, smaller: Subject, kept: NDArray[np.int64]) -> VocabularyCut:
    assert whole.scorer is not None
    assert smaller.scorer is not None
    assert whole.metric is not None
    expected = whole.scorer.answers(whole.expected)
    answers = smaller.scorer.answers(smaller.expected)
    compared = whole.scorer.with_teacher(expected)
    return VocabularyCut(
        kept=len(kept),
        of=len(whole.tokenizer),
        rows=whole.scorer.counted[0],
        same_pieces=_same_pieces(whole.checked, smaller.checked, whole.sequences, kept),
        same_answers=whole.scorer.agreement(answers, expected),
        minus_checkpoint=compared.difference(whole.metric, answers, expected) if whole.scorer.can_score else None,
    )


def _same_pieces(whole: Tokens, smaller: Tokens, rows: NDArray[np.int64], kept: NDArray[np.int64]) -> float:
    """Return the share of sequences whose pieces are the same; `kept` maps new numbers to old ones."""
    same = 0
    for row in rows:
        before, after = (
            tokens.ids[tokens.starts[row] : tokens.starts[row] + tokens.lengths[row]] for tokens in (whole, smaller)
        )
        same += len(before) == len(after) and bool((before == kept[after]).all())
    return same / max(len(rows), 1)
