"""Embedding: a vector for each text, compared with the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import Embedding
from stages.data.columns.values import read_values
from stages.data.readers.files import text_column
from stages.kinds.base import Kind, Logits, value_range
from stages.kinds.rows import CheckedRows, ScoredRows, as_dataset

if TYPE_CHECKING:
    from torch import Tensor, nn

    from schemas.core.metrics import MetricName
    from schemas.recipe.objective import SoftLabels
    from stages.data.batching.tokens import Batch, Tokens
    from stages.data.columns.text_columns import Task
    from stages.losses import Summed
    from stages.models.heads import Head
    from stages.models.read import Read

_BAG_WIDTH = 4096
Vectors = NDArray[np.float32]
"""(sequences, width) vectors; the two texts of a pair are two sequences, one after the other."""


class VectorKind(Kind[Embedding, Vectors, Vectors]):
    """A vector a text, compared with the teacher's, or with the similarity that validation rows give pairs."""

    needs_teacher: ClassVar[bool] = True

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        """Return texts alone to learn from; in other splits also pairs, where they have a similarity."""
        pair = task.text_pair
        scored = {
            split: rows
            for split, rows in raw.items()
            if split != "train" and {pair, task.label_column} <= set(rows.column_names)
        }
        similarities = read_values(task, scored, where)
        splits = {}
        for split, rows in raw.items():
            first = text_column(rows, task.text, where[split])
            second = None
            if pair is not None and pair in rows.column_names and (split == "train" or split in scored):
                second = text_column(rows, pair, where[split])
            if split in scored:
                splits[split] = as_dataset({"text": first, "text_pair": second, "label": similarities.splits[split]})
            else:
                # Both texts of a pair are texts to learn from.
                chunks = [*first.chunks, *(second.chunks if second is not None else [])]
                splits[split] = as_dataset({"text": pa.chunked_array(chunks)})
        return CheckedRows(splits, ("vector",), similarities.remarks)

    @override
    def has_labels(self, task: Task, *, is_train: bool) -> bool:
        return not is_train and task.text_pair is not None

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        return value_range(np.asarray(rows["label"][:])) if "label" in rows.column_names else {}

    @override
    def is_pair(self, rows: Dataset) -> bool:
        return False

    @override
    def rows_to_encode(self, rows: Dataset) -> Dataset:
        if "text_pair" not in rows.column_names:
            return rows
        return Dataset.from_dict({"text": _texts(rows)})

    @property
    @override
    def head(self) -> Head:
        from stages.models.heads import VectorHead

        return VectorHead(self.config)

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import vector_loss

        return vector_loss(student, teacher, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        raise AssertionError("vectors have no labels: a recipe that asks for them is refused")

    @override
    def sequences(self, rows: ScoredRows[Vectors]) -> NDArray[np.int64]:
        if "label" not in rows.data.column_names:
            return rows.chosen
        return np.stack([2 * rows.chosen, 2 * rows.chosen + 1], axis=1).ravel()

    @override
    def labels(self, rows: ScoredRows[Vectors]) -> Vectors:
        assert rows.teacher is not None
        return rows.teacher

    @override
    def answers(self, rows: ScoredRows[Vectors], logits: Logits) -> Vectors:
        return np.stack(logits)

    @override
    def constants(self, rows: ScoredRows[Vectors]) -> tuple[()]:
        return ()

    @override
    def agreement(self, first: Vectors, second: Vectors) -> float:
        """Return the mean cosine, or the rank correlation of similarities where widths differ."""
        from stages.scores.metrics import score

        return score("cosine" if first.shape == second.shape else "similarity_spearman", second, first)

    @override
    def reported(self, rows: ScoredRows[Vectors]) -> tuple[MetricName, ...]:
        has_similarities = "label" in rows.data.column_names
        return ("similarity_spearman", "spearman") if has_similarities else ("similarity_spearman",)

    @override
    def compared(
        self, rows: ScoredRows[Vectors], metric: MetricName, answers: Vectors
    ) -> tuple[Vectors | NDArray[np.float64], Vectors | NDArray[np.float64]]:
        if metric not in ("pearson", "spearman", "pearson_spearman"):
            return self.labels(rows), answers
        first, second = answers[::2], answers[1::2]
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return np.asarray(rows.data["label"][:]), (first * second).sum(1) / np.maximum(lengths, 1e-12)

    @override
    def probe(
        self,
        model: nn.Module,
        train: Tokens,
        chosen: NDArray[np.int64],
        rows: ScoredRows[Vectors],
        read: Read | None = None,
    ) -> Vectors:
        """Return the mean last state of each text: there is nothing to fit."""
        from stages.models.read import read_rows

        read = read or read_rows(model, rows.tokens, self.sequences(rows))
        return np.stack(read.features)

    @override
    def bag_of_words(self, rows: ScoredRows[Vectors]) -> Vectors:
        from sklearn.feature_extraction.text import TfidfVectorizer

        from stages.text.bag_of_words import WORDS, fitted_vectors

        train = rows.task.train["text"][:]
        counter, _ = fitted_vectors(TfidfVectorizer, train, WORDS, max_features=_BAG_WIDTH, sublinear_tf=True)
        return np.asarray(counter.transform(_texts(rows.data)).toarray(), dtype=np.float32)


def _texts(rows: Dataset) -> list[str]:
    """Return all texts, the two of a pair one after the other."""
    if "text_pair" not in rows.column_names:
        return list(rows["text"])
    return list(chain.from_iterable(zip(rows["text"], rows["text_pair"], strict=True)))
