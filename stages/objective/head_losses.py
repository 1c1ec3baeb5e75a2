"""Losses of heads that are of no single kind: several tasks in one layer, and masked words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from schemas.core.kinds import TaskKind
from schemas.recipe.objective import SoftLabels
from stages.data.batching.payloads import MaskedWords
from stages.data.batching.tokens import Batch
from stages.kinds.base import HeadLosses, labels_of
from stages.kinds.registry import kind_of
from stages.losses import Summed, hard_label_loss, soft_label_loss, value_loss


@dataclass(frozen=True)
class MixedLosses(HeadLosses):
    """One class or one value a row, depending on its task; tasks share an output layer, each with outputs of its own.

    A row is compared with the outputs of its task alone; other outputs receive no gradient from it.
    """

    groups: tuple[tuple[int, int], ...]
    """Half-open ranges of outputs, one per task; a task's only output is a value."""
    scales: tuple[float, ...] | None = None
    """Standard deviation of each output's values, by which errors are divided; None to divide by nothing."""

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        raise AssertionError("several tasks are learnt from labels: no stage learns a teacher's answers to them")

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        labels = labels_of(batch)
        output = labels[:, 0].nan_to_num(nan=-1.0).long()
        of_value = torch.isin(output, self._value_outputs(labels))
        classes = hard_label_loss(student[~of_value], output[~of_value], groups=self.groups)
        answers = student[of_value].gather(1, output[of_value, None]).squeeze(-1)
        values = value_loss(answers, labels[of_value, 1], scale=self._scale(output[of_value]))
        return Summed(classes.total + values.total, classes.count + values.count)

    def _scale(self, output: Tensor) -> Tensor | float:
        """Return (rows,) the scale of each row's output."""
        if self.scales is None:
            return 1.0
        return torch.tensor(self.scales, device=output.device)[output]

    def _value_outputs(self, labels: Tensor) -> Tensor:
        """Return the numbers of the outputs that are values."""
        outputs = [start for start, end in self.groups if end - start == 1]
        return torch.tensor(outputs, dtype=torch.long, device=labels.device)


class MaskedWordLosses(HeadLosses):
    """The words that were masked."""

    counted = "tokens"

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        masked = _words(batch) >= 0
        return soft_label_loss(student[masked], teacher[masked], temperature=config.temperature, kind=config.loss)

    @override
    def soft_count(self, batch: Batch) -> int:
        return int((_words(batch) >= 0).sum())

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        masked = _words(batch) >= 0
        return hard_label_loss(student[masked], _words(batch)[masked])

    @override
    def hard_count(self, batch: Batch) -> int:
        return self.soft_count(batch)


def head_losses(
    problem: TaskKind | None,
    groups: tuple[tuple[int, int], ...] | None = None,
    scales: tuple[float, ...] | None = None,
) -> HeadLosses:
    """Return the losses of a head.

    Args:
        problem: the task's kind; None for masked words.
        groups: half-open ranges of outputs, one per task, where several tasks share an output layer.
        scales: standard deviation of each output's values; None where no output is a value.
    """
    if groups is not None:
        return MixedLosses(groups, scales)
    return MaskedWordLosses() if problem is None else kind_of(problem).losses(scales)


def _words(batch: Batch) -> Tensor:
    return batch.targets_as(MaskedWords).words
