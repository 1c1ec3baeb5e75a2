"""Regression: one number for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import Regression
from stages.data.columns.label_names import MAYBE_MISSING, MISSING_LABELS
from stages.data.columns.text_columns import Task, task_texts
from stages.data.columns.values import read_values
from stages.kinds.base import HeadLosses, Logits, RowKind, is_labelled, labels_of, pair_texts, value_range
from stages.kinds.rows import CheckedRows, ScoredRows, as_dataset

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from schemas.core.metrics import MetricName
    from schemas.recipe.objective import SoftLabels
    from schemas.results.manifest import LabelOrder
    from stages.data.batching.tokens import Batch
    from stages.losses import Summed
    from stages.models.heads import Head

_SPREAD_RATIO = 3
"""Answers that spread this many times as much as the labels are not in the same units."""
Values = NDArray[np.float64]
"""(rows,) values."""


@dataclass(frozen=True)
class RegressionKind(RowKind[Regression, Values, Values]):
    """One number a row."""

    scale: float = 1.0
    """Standard deviation of the training values; losses divide errors by it."""
    label_type: ClassVar[type] = np.float32

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        values = read_values(task, raw, where)
        splits = {
            split: as_dataset({**task_texts(task, rows, where[split]), "label": values.splits[split]})
            for split, rows in raw.items()
        }
        return CheckedRows(splits, ("value",), values.remarks)

    @override
    def is_no_label(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        names = pa.array(sorted(MISSING_LABELS | MAYBE_MISSING), texts.type)
        stands_for_none = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), value_set=names)
        return pc.or_(super().is_no_label(texts), stands_for_none)

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        return value_range(np.asarray(rows["label"][:], np.float64))

    @property
    @override
    def head(self) -> Head:
        from stages.models.heads import TaskHead

        return TaskHead(self.config.kind, problem_type="regression", names_matter=False)

    @override
    def losses(self, scales: tuple[float, ...] | None) -> HeadLosses:
        return replace(self, scale=scales[0]) if scales else self

    @override
    def mean_and_deviation(self, train: Dataset) -> tuple[float, float]:
        values = np.asarray(train["label"], np.float64)
        # Few drawn rows may all have the same value.
        return float(values.mean()), float(values.std()) or 1.0

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import value_loss

        return value_loss(student.squeeze(-1), teacher.squeeze(-1), scale=self.scale)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        from stages.losses import value_loss

        known = is_labelled(batch)
        return value_loss(student.squeeze(-1)[known], labels_of(batch)[known], scale=self.scale)

    @override
    def labels(self, rows: ScoredRows[Values]) -> Values:
        return np.asarray(rows.data["label"][:], dtype=np.float64)

    @override
    def answers(self, rows: ScoredRows[Values], logits: Logits) -> Values:
        return np.stack(logits)[:, 0].astype(np.float64)

    @override
    def constants(self, rows: ScoredRows[Values]) -> list[Values]:
        labels = self.labels(rows)
        return [np.full(len(labels), labels.mean())]

    @override
    def agreement(self, first: Values, second: Values) -> float:
        """Return the Pearson correlation."""
        from stages.scores.metrics import score

        return score("pearson", first, second)

    @override
    def reported(self, rows: ScoredRows[Values]) -> tuple[MetricName, ...]:
        return ("pearson", "spearman")

    @override
    def learner(self) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=10.0)

    @override
    def bag_of_words(self, rows: ScoredRows[Values]) -> Values:
        """Return the answers of a ridge regression; for pairs, on the words that the texts share and do not share."""
        from sklearn.linear_model import Ridge

        from stages.text.bag_of_words import row_features, word_counts

        train = rows.task.train
        counter, _ = word_counts(pair_texts(train))
        model = Ridge(alpha=10.0).fit(row_features(counter, train), np.asarray(train["label"]))
        return np.asarray(model.predict(row_features(counter, rows.data)), dtype=np.float64)

    @override
    def output_order(self, names: Sequence[str], labels: Sequence[str]) -> LabelOrder | None:
        return None

    @override
    def doubt(self, rows: ScoredRows[Values], answer: Callable[[], Values]) -> str | None:
        """Return a sentence where answers are in other units than the labels, which no correlation shows."""
        labels, answers = self.labels(rows), answer()
        distance, spread = abs(answers.mean() - labels.mean()), labels.std()
        if distance <= spread and answers.std() <= _SPREAD_RATIO * spread:
            return None
        return (
            f"its values are {answers.mean():.3g} ± {answers.std():.3g} where the labels are {labels.mean():.3g} ± "
            f"{spread:.3g} (mean ± standard deviation), so that it seems to answer in other units, and a student would "
            "learn something between: write the labels in its units, or set teacher.task_model.kind to fine_tune"
        )
