"""Multiple choice: one of a row's answers, each of which is a sequence with a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import MultipleChoice
from stages.data.columns.choice_rows import read_choices
from stages.kinds.base import Logits, Numbers, SingleLabelKind, labels_of, pair_texts
from stages.kinds.encode import Columns, Encode, encode_pairs
from stages.kinds.rows import CheckedRows, ScoredRows

if TYPE_CHECKING:
    from datasets import Dataset
    from sklearn.pipeline import Pipeline
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from schemas.core.metrics import MetricName
    from schemas.recipe.objective import SoftLabels
    from stages.data.batching.tokens import Batch
    from stages.data.columns.text_columns import Task
    from stages.losses import Summed
    from stages.models.heads import Head


class ChoiceKind(SingleLabelKind[MultipleChoice]):
    """The number of a choice a row: the choice with the highest score."""

    # A model cannot learn by heart at which position the right choice is.
    constant_teaches: ClassVar[bool] = True

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        choices = read_choices(task, self.config, raw, where)
        return CheckedRows(choices.splits, ("choice",), choices.remarks)

    @override
    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        numbers = set(rows["label"][:])
        return None if len(numbers) > 1 else f"the right choice is number {numbers.pop() + 1}"

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        counts = np.bincount(np.asarray(rows["label"][:]))
        return {f"choice {number}": count for number, count in enumerate(counts.tolist(), 1)}

    @override
    def is_pair(self, rows: Dataset) -> bool:
        return True

    @override
    def encoder(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
        """Return an encoder with a sequence per choice: the passage, then the question, if any, and the choice.

        The layout of transformers' multiple-choice heads for SWAG and RACE. `label` is 1 for the right choice, else 0.
        """

        def encode(batch: Columns, rows: list[int]) -> Columns:
            passages, answers, labels, examples = [], [], [], []
            questions = batch.get("text_pair") or [""] * len(rows)
            for position, choices in enumerate(batch["choices"]):
                passages += [batch["text"][position]] * len(choices)
                answers += [f"{questions[position]} {choice}".lstrip() for choice in choices]
                labels += [int(number == batch["label"][position]) for number in range(len(choices))]
                examples += [rows[position]] * len(choices)
            columns = encode_pairs(tokenizer, max_length, passages, answers)
            return columns | {"label": labels, "example": examples}

        return encode

    @property
    @override
    def head(self) -> Head:
        from transformers import MODEL_FOR_MULTIPLE_CHOICE_MAPPING, AutoModelForMultipleChoice

        from stages.models.heads import ChoiceHead

        return ChoiceHead(
            self.config.kind,
            AutoModelForMultipleChoice,
            MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
            "ForMultipleChoice",
            has_names=False,
        )

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        import torch

        from stages.losses import soft_choice_loss

        return soft_choice_loss(
            _by_row(student, batch),
            _by_row(teacher, batch),
            _by_row(torch.ones_like(student), batch) > 0,
            temperature=config.temperature,
            kind=config.loss,
        )

    @override
    def soft_count(self, batch: Batch) -> int:
        return len(_sizes(batch))

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        import torch

        from stages.data.batching.payloads import NOT_LABELLED
        from stages.losses import choice_loss

        right = _by_row(labels_of(batch)[:, None], batch)
        labels = torch.where(right.any(-1), right.argmax(-1), NOT_LABELLED)
        is_choice = _by_row(torch.ones_like(student), batch) > 0
        return choice_loss(_by_row(student, batch), labels, is_choice)

    @override
    def hard_count(self, batch: Batch) -> int:
        return int(_by_row(labels_of(batch)[:, None], batch).any(-1).sum())

    @override
    def sequences(self, rows: ScoredRows[Numbers]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(rows.tokens.row_of, rows.chosen))

    @override
    def answers(self, rows: ScoredRows[Numbers], logits: Logits) -> Numbers:
        row_of = rows.tokens.row_of[self.sequences(rows)]
        scores = np.split(np.stack(logits)[:, 0], np.flatnonzero(np.diff(row_of)) + 1)
        return np.array([row.argmax() for row in scores])

    @override
    def constants(self, rows: ScoredRows[Numbers]) -> list[Numbers]:
        labels = self.labels(rows)
        return [np.full(len(labels), np.bincount(labels).argmax())]

    @override
    def reported(self, rows: ScoredRows[Numbers]) -> tuple[MetricName, ...]:
        return ("accuracy",)

    @override
    def predicted(self, rows: ScoredRows[Numbers], probe: Pipeline, features: NDArray[np.float32]) -> Numbers:
        return self.answers(rows, list(probe.decision_function(features).reshape(-1, 1)))

    @override
    def bag_of_words(self, rows: ScoredRows[Numbers]) -> Numbers:
        """Return the choice that shares most with passage and question, rare words counting most."""
        from stages.text.bag_of_words import nearest

        texts = zip(pair_texts(rows.data), rows.data["choices"], strict=True)
        return np.array([nearest(text, choices) for text, choices in texts])


def _sizes(batch: Batch) -> Tensor:
    """Return (rows,) the number of choices of each row."""
    import torch

    from stages.data.batching.payloads import ChoiceLabels

    return torch.unique_consecutive(batch.targets_as(ChoiceLabels).row_of, return_counts=True)[1]


def _by_row(scores: Tensor, batch: Batch) -> Tensor:
    """Return (rows, most choices) of (batch, 1) values, one per sequence; 0 where a row has fewer choices."""
    import torch

    sizes = _sizes(batch)
    row = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    number = torch.arange(len(row), device=sizes.device) - (sizes.cumsum(0) - sizes)[row]
    table = scores.new_zeros(len(sizes), int(sizes.max()))
    return table.index_put((row, number), scores.squeeze(-1))
