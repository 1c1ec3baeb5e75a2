"""Terms at the head: the teachers' answers and the data's labels, for classes or for masked words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemas.objective import HardLabels, SoftLabels
from stages.losses import Summed, hard_label_loss, soft_label_loss
from stages.terms import Needs, Outputs, Target, Term
from stages.tokens import Batch


def soft_label_terms(
    config: SoftLabels, shares: Sequence[float], *, masked_words: bool
) -> list[Term]:
    """One term per teacher: the divergence from each, weighed by its share.

    The gradient is that of the divergence from the teachers' mixed answer: only the entropy of the targets, a
    constant, tells the two apart.
    """
    several = len(shares) > 1
    return [
        _soft_label_term(config, index, share, several=several, masked_words=masked_words)
        for index, share in enumerate(shares)
    ]


def _soft_label_term(
    config: SoftLabels, index: int, share: float, *, several: bool, masked_words: bool
) -> Term:
    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        return soft_label_loss(
            _answers(student, batch, masked_words=masked_words),
            _answers(target.outputs[index], batch, masked_words=masked_words),
            temperature=config.temperature,
            kind=config.loss,
            row_weights_B=None if masked_words else target.shares_of(index),
        )

    return Term(
        "soft_label",
        None,
        config.weight * share,
        compute,
        _num_masked if masked_words else _num_rows,
        teacher=index if several else None,
        of_student=Needs(logits=True),
        of_teacher=Needs(logits=True),
    )


def hard_label_term(
    config: HardLabels, *, groups: tuple[tuple[int, int], ...] | None, masked_words: bool
) -> Term:
    """Cross entropy with the data's classes, or with the words that were masked."""

    def compute(student: Outputs, _target: Target | None, batch: Batch) -> Summed:
        answers = _answers(student, batch, masked_words=masked_words)
        if masked_words:
            assert batch.word_labels is not None
            return hard_label_loss(answers, batch.word_labels[batch.word_labels >= 0])
        assert batch.labels is not None
        return hard_label_loss(answers, batch.labels, groups=groups)

    count = _num_masked if masked_words else _num_rows
    needs = Needs(logits=True)
    return Term("hard_label", None, config.weight, compute, count, of_student=needs)


def _answers(outputs: Outputs, batch: Batch, *, masked_words: bool) -> Tensor:
    assert outputs.logits is not None
    if not masked_words:
        return outputs.logits
    assert batch.word_labels is not None
    return outputs.logits[batch.word_labels >= 0]


def _num_rows(batch: Batch) -> int:
    return len(batch.input_ids)


def _num_masked(batch: Batch) -> int:
    assert batch.word_labels is not None
    return int((batch.word_labels >= 0).sum())
