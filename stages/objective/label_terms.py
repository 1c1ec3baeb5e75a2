"""Terms at the head: the teachers' answers and the data's labels, for whatever kind of answer a task asks for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemas.recipe.objective import HardLabels, SoftLabels
from stages.data.batching.tokens import Batch
from stages.losses import Summed
from stages.objective.head_losses import Answers
from stages.objective.terms import Needs, Outputs, Target, Term


def soft_label_terms(config: SoftLabels, shares: Sequence[float], answers: Answers) -> list[Term]:
    """One term per teacher: the divergence from each, weighed by its share.

    The gradient is that of the divergence from the teachers' mixed answer: only the entropy of the targets, a
    constant, tells the two apart.
    """
    several = len(shares) > 1
    return [_soft_label_term(config, index, share, answers, several=several) for index, share in enumerate(shares)]


def _soft_label_term(config: SoftLabels, index: int, share: float, answers: Answers, *, several: bool) -> Term:
    def compute(student: Outputs, target: Target | None, batch: Batch) -> Summed:
        assert target is not None
        return answers.soft(config, _logits(student), _logits(target.outputs[index]), batch, target.shares_of(index))

    return Term(
        "soft_label",
        None,
        config.weight * share,
        compute,
        answers.soft_count,
        teacher=index if several else None,
        of_student=Needs(logits=True),
        of_teacher=Needs(logits=True),
    )


def hard_label_term(config: HardLabels, answers: Answers) -> Term:
    """The distance to the data's own labels, or to the words that were masked."""

    def compute(student: Outputs, _target: Target | None, batch: Batch) -> Summed:
        return answers.hard(_logits(student), batch)

    needs = Needs(logits=True)
    return Term("hard_label", None, config.weight, compute, answers.hard_count, of_student=needs)


def _logits(outputs: Outputs) -> Tensor:
    assert outputs.logits is not None
    return outputs.logits
