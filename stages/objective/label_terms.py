"""Terms at the head: teachers' answers and the data's labels, for every kind of task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemas.recipe.objective import HardLabels, SoftLabels
from stages.data.batching.tokens import Batch
from stages.kinds.base import HeadLosses
from stages.losses import Summed
from stages.objective.terms import Needs, Outputs, Target, Term


def soft_label_terms(config: SoftLabels, shares: Sequence[float], losses: HeadLosses) -> list[Term]:
    """Return one term per teacher: the divergence from its answers, weighted by its share.

    The gradient equals that of the divergence from the weighted mean of the teachers' answers: the two differ only by
    the entropy of the targets, a constant.
    """
    several = len(shares) > 1
    return [_soft_label_term(config, index, share, losses, several=several) for index, share in enumerate(shares)]


def _soft_label_term(config: SoftLabels, index: int, share: float, losses: HeadLosses, *, several: bool) -> Term:
    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        return losses.soft(config, _logits(student), _logits(target.outputs[index]), batch, target.shares_of(index))

    return Term(
        "soft_label",
        None,
        config.weight * share,
        compute,
        losses.soft_count,
        teacher=index if several else None,
        of_student=Needs(logits=True),
        of_teacher=Needs(logits=True),
        counted=losses.counted,
    )


def hard_label_term(config: HardLabels, losses: HeadLosses) -> Term:
    """Return the term of the data's labels, or of the words that were masked."""

    def compute(student: Outputs, _target: Target | None, batch: Batch) -> Summed:
        return losses.hard(_logits(student), batch)

    needs = Needs(logits=True)
    return Term("hard_label", None, config.weight, compute, losses.hard_count, of_student=needs, counted=losses.counted)


def _logits(outputs: Outputs) -> Tensor:
    assert outputs.logits is not None
    return outputs.logits
