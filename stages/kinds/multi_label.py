"""Multi-label classification: any number of labels for each text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import MultiLabel
from schemas.core.wording import printable
from stages.data.columns.label_sets import read_label_sets
from stages.data.columns.text_columns import Task, task_texts
from stages.data.readers.files import first_row
from stages.kinds.base import Logits, RowKind, is_labelled, labels_of, pair_texts
from stages.kinds.label_codes import codes_of, rarest, unknown_label
from stages.kinds.rows import CheckedRows, ScoredRows, as_dataset

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from schemas.core.metrics import MetricName
    from schemas.recipe.objective import SoftLabels
    from stages.data.batching.tokens import Batch, Tokens
    from stages.losses import Summed
    from stages.models.heads import Head

LabelSets = NDArray[np.int64]
"""(rows, labels) 1 where a row has the label, else 0."""


class MultiLabelKind(RowKind[MultiLabel, LabelSets, LabelSets]):
    """Any number of labels a row."""

    label_type: ClassVar[type] = np.float32

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        sets = read_label_sets(task, self.config, raw, where)
        splits = {}
        for split, rows in raw.items():
            lists = sets.splits[split]
            codes = codes_of(lists.flat, sets.labels)
            if position := first_row(pc.is_null(codes)):
                row, name = lists.row_of(position - 1), lists.flat[position - 1].as_py()
                raise unknown_label(task, where[split], row, name, sets.labels)
            has = np.zeros((len(rows), len(sets.labels)), np.int8)
            has[lists.rows(), codes.to_numpy()] = 1
            columns = task_texts(task, rows, where[split])
            splits[split] = as_dataset({**columns, "label": pa.array(list(has), pa.list_(pa.int8()))})
        return CheckedRows(splits, sets.labels, sets.remarks)

    @override
    def is_no_label(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        # A row may have no label at all, which a CSV writes as nothing.
        return pc.is_null(texts)

    @override
    def classes(self, rows: Dataset) -> NDArray[np.int64]:
        has = np.asarray(rows["label"][:], dtype=np.int64)
        return rarest(*np.nonzero(has), number=len(has))

    @override
    def sequence_classes(self, tokens: Tokens) -> NDArray[np.int64]:
        from stages.data.batching.payloads import RowLabels

        return rarest(*np.nonzero(tokens.payload_as(RowLabels).labels), number=len(tokens))

    @override
    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        sets = {tuple(np.flatnonzero(row).tolist()) for row in rows["label"][:]}
        if len(sets) > 1:
            return None
        names = ", ".join(labels[number] for number in sets.pop())
        return f"the answer is {printable(names or 'no label', 120)}"

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        has = np.asarray(rows["label"][:]).reshape(len(rows), -1)
        return dict(zip(labels, has.sum(0).tolist(), strict=True))

    @property
    @override
    def head(self) -> Head:
        from stages.models.heads import TaskHead

        return TaskHead(self.config.kind, problem_type="multi_label_classification")

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import soft_multi_label_loss

        return soft_multi_label_loss(student, teacher, temperature=config.temperature, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        from stages.losses import multi_label_loss

        known = is_labelled(batch)
        return multi_label_loss(student[known], labels_of(batch)[known])

    @override
    def labels(self, rows: ScoredRows[LabelSets]) -> LabelSets:
        return np.asarray(rows.data["label"][:], dtype=np.int64)

    @override
    def answers(self, rows: ScoredRows[LabelSets], logits: Logits) -> LabelSets:
        threshold = self.config.threshold
        # σ(x) >= t, where x >= ln(t / (1 - t)).
        return (np.stack(logits) >= np.log(threshold / (1 - threshold))).astype(np.int64)

    @override
    def constants(self, rows: ScoredRows[LabelSets]) -> list[LabelSets]:
        labels = self.labels(rows)
        sets, counts = np.unique(labels, axis=0, return_counts=True)
        # Micro F1 is best for some number of the most frequent labels, macro F1 for all labels, and the share of rows
        # that are all right for the most frequent set.
        frequency = labels.sum(0)
        order = np.argsort(-frequency, kind="stable")
        right = np.cumsum(frequency[order])
        f1 = 2 * right / (frequency.sum() + len(labels) * np.arange(1, len(order) + 1))
        frequent = np.zeros(labels.shape[1], np.int64)
        frequent[order[: int(f1.argmax()) + 1]] = 1
        best = (sets[counts.argmax()], frequent, np.ones_like(frequent))
        return [np.broadcast_to(constant, labels.shape) for constant in best]

    @override
    def agreement(self, first: LabelSets, second: LabelSets) -> float:
        """Return the share of labels in both answers among those in either; most labels are in neither."""
        either = np.logical_or(first, second).sum()
        return float(np.logical_and(first, second).sum() / either) if either else 1.0

    @override
    def reported(self, rows: ScoredRows[LabelSets]) -> tuple[MetricName, ...]:
        return ("f1_micro", "f1_macro", "subset_accuracy")

    @override
    def learner(self) -> Any:
        from sklearn.multiclass import OneVsRestClassifier

        from stages.kinds.linear_probe import logistic

        return OneVsRestClassifier(logistic())

    @override
    def learner_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        return labels.astype(np.int64)

    @override
    def bag_of_words(self, rows: ScoredRows[LabelSets]) -> LabelSets:
        """Return the answers of a logistic regression per label; a label that all or no rows have is a constant.

        For pairs it reads the words that the texts share or do not share.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        from stages.text.bag_of_words import row_features, word_counts

        train = rows.task.train
        counter, _ = word_counts(pair_texts(train))
        model = OneVsRestClassifier(LogisticRegression(max_iter=200, solver="liblinear"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # scikit-learn: a label is constant
            model.fit(row_features(counter, train), np.asarray(train["label"], dtype=np.int64))
            return np.asarray(model.predict(row_features(counter, rows.data)))
