"""`Kind`: everything that is particular to one kind of task, from its rows to its scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import override

from schemas.core.kinds import TaskKind
from stages.kinds.encode import Encode, text_encoder
from stages.kinds.rows import Answers, CheckedRows, ScoredRows, TaskRows

if TYPE_CHECKING:
    from datasets import Dataset
    from sklearn.pipeline import Pipeline
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

    from schemas.core.metrics import MetricName
    from schemas.data.tasks import AnyTask, FileTask
    from schemas.recipe.objective import SoftLabels
    from schemas.results.manifest import LabelOrder
    from stages.data.batching.tokens import Batch, Tokens
    from stages.data.columns.text_columns import Task
    from stages.losses import Summed
    from stages.models.heads import Head
    from stages.models.read import Read

Config = TypeVar("Config", bound=TaskKind)
Right = TypeVar("Right", bound=NDArray[Any] | list[Any])
"""Labels of some rows, in the form that the kind's metrics compare answers with."""
Logits = Sequence[NDArray[np.float32]]
"""The answer to each sequence: (outputs,), or (tokens, outputs)."""


class HeadLosses(ABC):
    """Losses of a head: against a teacher's answers, and against the data's labels.

    A head's answer is one tensor for every kind: (batch, classes) for a text; (batch, sequence, classes) for its
    tokens, where start and end of a span are two classes; (batch, 1) for choices, which are sequences of their own;
    (batch, width) for a vector.
    """

    counted: ClassVar[Literal["labels", "tokens"]] = "labels"
    """`tokens` if the counts are drawn step by step; as `stages.objective.terms.Counted`."""

    @abstractmethod
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        """Return the distance to a teacher's answers; every row counts, labelled or not."""

    @abstractmethod
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        """Return the distance to the data's labels; rows without a label (of augmented text) are left out."""

    def soft_count(self, batch: Batch) -> int:
        """Return the count of `soft`: rows, unless a kind counts something else."""
        return len(batch.input_ids)

    def hard_count(self, batch: Batch) -> int:
        """Return the count of `hard`: labelled rows, unless a kind counts something else."""
        return int(is_labelled(batch).sum())


def labels_of(batch: Batch) -> Tensor:
    """Return the labels of a batch of labelled rows."""
    from stages.data.batching.payloads import Labels

    return batch.targets_as(Labels).values


def is_labelled(batch: Batch) -> Tensor:
    """Return (batch,), True for rows with a label."""
    labels = labels_of(batch)
    known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
    return known if known.ndim == 1 else known.all(-1)


@dataclass(frozen=True)
class Kind(HeadLosses, Generic[Config, Answers, Right]):
    """A kind of task.

    Answers and labels are arrays or lists with an entry per row; each kind states their form. To add a kind, write a
    subclass in a module of its own and enter it in `stages.kinds.registry`.
    """

    config: Config

    # Rows

    holds_words: ClassVar[bool] = False
    """True where the text column holds lists of words, of which an empty one is a row (CoNLL files)."""
    has_class_names: ClassVar[bool] = False
    """True where labels are names of classes, some of which (`-`, `nan`) may stand for no label."""
    constant_teaches: ClassVar[bool] = False
    """True where rows that all have one answer can still be learnt from."""

    @abstractmethod
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        """Return every split's rows in the form of the kind, with the names of a head's outputs.

        Args:
            task: the columns.
            raw: the splits as they were read, `train` first.
            where: the name of each split in messages.

        Raises:
            DataError: a row is malformed; with split, row, column and what to do.
        """

    def read_file(self, path: Path, task: FileTask, where: str) -> Dataset | None:
        """Read a file in a format that only this kind has; None where it is in none."""
        return None

    def has_labels(self, task: Task, *, is_train: bool) -> bool:
        """Return True where the rows of a split must have labels."""
        return True

    def is_no_label(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return which texts of a label column say that a row has no label."""
        return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), False)

    def check_drawn(self, train: Dataset) -> None:
        """Refuse training rows, as drawn, that nothing can be learnt from.

        Raises:
            DataError: all of them have the same class.
        """

    def positive_label(
        self, task: AnyTask, train: Dataset, labels: tuple[str, ...]
    ) -> tuple[str | None, tuple[str, ...]]:
        """Return the class that F1 is about, None without one, and remarks on the choice.

        Raises:
            DataError: the class that the task names does not exist, or the task's metric needs one and it is unclear.
        """
        return None, ()

    def classes(self, rows: Dataset) -> NDArray[np.int64] | None:
        """Return (rows,) the class by which each row is drawn; None to draw from all rows alike."""
        return None

    def sequence_classes(self, tokens: Tokens) -> NDArray[np.int64] | None:
        """Return (sequences,) the class by which each sequence is drawn; None to draw from all alike."""
        return None

    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        """Describe the answer that is right in every row; None where rows differ or answers are never shared."""
        return None

    @abstractmethod
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        """Return the label balance of a split for the data card: counts of labels, or the range of values."""

    # Sequences

    label_type: ClassVar[type] = np.int64
    """Type of `Tokens.labels`."""

    def is_pair(self, rows: Dataset) -> bool:
        """Return True where a sequence holds two texts."""
        return "text_pair" in rows.column_names

    def rows_to_encode(self, rows: Dataset) -> Dataset:
        """Return the rows of which sequences are made."""
        return rows

    def encoder(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
        """Return the function that tokenises rows.

        Args:
            tokenizer: the teacher's.
            max_length: tokens of the longest sequence.
            is_pair: True where a sequence holds two texts.
        """
        return text_encoder(tokenizer, max_length, is_pair=is_pair)

    # Head and losses

    @property
    @abstractmethod
    def head(self) -> Head:
        """The head that models of the kind have."""

    def answered(self, batch: Batch) -> Tensor:
        """Return (batch, seq), True for the tokens that a head with an answer per token answers about."""
        return batch.attention_mask.bool()

    def losses(self, scales: tuple[float, ...] | None) -> HeadLosses:
        """Return the head's losses.

        Args:
            scales: standard deviation of each output's values; None where no output is a value.
        """
        return self

    def mean_and_deviation(self, train: Dataset) -> tuple[float, float] | None:
        """Return mean and standard deviation of the training values; None where labels are not values."""
        return None

    # Scores

    needs_teacher: ClassVar[bool] = False
    """True where answers are scored against a teacher's."""
    probe_metric: ClassVar[MetricName | None] = None
    """Score of the linear probe whatever the task's metric; None for the task's."""

    @abstractmethod
    def labels(self, rows: ScoredRows[Answers]) -> Right:
        """Return the labels of some rows."""

    @abstractmethod
    def answers(self, rows: ScoredRows[Answers], logits: Logits) -> Answers:
        """Return the answers to some rows.

        Args:
            rows: the rows.
            logits: a head's answers to `sequences`.
        """

    def sequences(self, rows: ScoredRows[Answers]) -> NDArray[np.int64]:
        """Return the sequences that models read to answer some rows, in their order."""
        return rows.chosen

    @abstractmethod
    def constants(self, rows: ScoredRows[Answers]) -> Sequence[Answers]:
        """Return answers that are the same for every row.

        For every score of the kind, one of them is the best answer of a guesser who knows the frequencies of the labels
        and nothing else. Empty where guessing is impossible.
        """

    @abstractmethod
    def reported(self, rows: ScoredRows[Answers]) -> tuple[MetricName, ...]:
        """Return the scores that are always reported, beside the task's main one."""

    def agreement(self, first: Answers, second: Answers) -> float:
        """Return the agreement of two models: the share of equal answers."""
        return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))

    def compared(
        self, rows: ScoredRows[Answers], metric: MetricName, answers: Answers
    ) -> tuple[Right | NDArray[np.float64], Answers | NDArray[np.float64]]:
        """Return labels and answers in the form that a metric compares."""
        return self.labels(rows), answers

    def why_no_score(self, metric: MetricName, rows: TaskRows) -> str | None:
        """Explain why a score cannot be computed for a task; None where it can."""
        return None

    def why_meaningless(self, rows: ScoredRows[Answers], metric: MetricName, labels: Any) -> str | None:
        """Explain why a score is 0 whatever the model is worth; None where it means something.

        Args:
            rows: the rows.
            metric: the score.
            labels: the labels that are compared.
        """
        return None

    # Baselines

    @abstractmethod
    def probe(
        self,
        model: nn.Module,
        train: Tokens,
        chosen: NDArray[np.int64],
        rows: ScoredRows[Answers],
        read: Read | None = None,
    ) -> Answers:
        """Return the answers of a linear model on the model's last states.

        Args:
            model: its encoder's states are the features; a head is not used.
            train: sequences that the probe is fitted on.
            chosen: which of them.
            rows: the rows to answer.
            read: features of those rows averaged over tokens, if read already; None to read them here.
        """

    @abstractmethod
    def bag_of_words(self, rows: ScoredRows[Answers]) -> Answers:
        """Return the answers of a bag-of-words model that was fitted on the training rows."""

    # A teacher's answers

    def output_order(self, names: Sequence[str], labels: Sequence[str]) -> LabelOrder | None:
        """Return how a head's output names relate to the task's labels; None where they do not, or are not names."""
        from stages.models.heads import label_order

        return label_order(names, labels)

    def doubt(self, rows: ScoredRows[Answers], answer: Callable[[], Answers]) -> str | None:
        """Return a reason to doubt a teacher's answers that no score shows; None without one.

        Args:
            rows: the validation rows.
            answer: computes the teacher's answers, which takes seconds; not called by kinds that have no such reason.
        """
        return None

    def renamed(self, rows: ScoredRows[Answers], answers: Answers) -> tuple[Answers, list[str]] | None:
        """Return answers with outputs assigned to the classes that suit them best, and these classes by output.

        None for kinds whose outputs are not classes of rows.
        """
        return None


AnyKind = Kind[Any, Any, Any]


class RowKind(Kind[Config, Answers, Right]):
    """A kind whose sequences have a label each: its probe is one estimator on features averaged over tokens."""

    @abstractmethod
    def learner(self) -> Any:
        """Return the scikit-learn estimator of the probe."""

    def learner_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return labels in the form that the estimator is fitted on."""
        return labels

    def predicted(self, rows: ScoredRows[Answers], probe: Pipeline, features: NDArray[np.float32]) -> Answers:
        """Return a fitted probe's answers to some rows."""
        answers: Any = np.asarray(probe.predict(features))
        return answers

    @override
    def probe(
        self,
        model: nn.Module,
        train: Tokens,
        chosen: NDArray[np.int64],
        rows: ScoredRows[Answers],
        read: Read | None = None,
    ) -> Answers:
        from stages.data.batching.payloads import RowLabels
        from stages.kinds.linear_probe import fitted
        from stages.models.read import read_rows

        read = read or read_rows(model, rows.tokens, self.sequences(rows))
        learnt = np.stack(read_rows(model, train, chosen).features)
        labels = self.learner_labels(train.payload_as(RowLabels).labels[chosen])
        return self.predicted(rows, fitted(self.learner(), learnt, labels), np.stack(read.features))


Numbers = NDArray[np.int64]
"""(rows,) labels as numbers: classes, or choices counted from 0 within each row."""


class SingleLabelKind(RowKind[Config, Numbers, Numbers]):
    """A kind of which every row has one label, a number by which rows are drawn."""

    @override
    def classes(self, rows: Dataset) -> NDArray[np.int64]:
        return np.asarray(rows["label"][:], dtype=np.int64)

    @override
    def sequence_classes(self, tokens: Tokens) -> NDArray[np.int64]:
        from stages.data.batching.payloads import RowLabels

        return tokens.payload_as(RowLabels).labels

    @override
    def labels(self, rows: ScoredRows[Numbers]) -> Numbers:
        return np.asarray(rows.data["label"][:])

    @override
    def learner(self) -> Any:
        from stages.kinds.linear_probe import logistic

        return logistic()


def value_range(values: NDArray[np.float64]) -> dict[str, float]:
    """Return mean, lowest and highest of some values, for the data card."""
    return {"mean": float(values.mean()), "lowest": float(values.min()), "highest": float(values.max())}


def pair_texts(rows: Dataset) -> list[str]:
    """Return the text of each row; both texts of a pair, joined by a space."""
    first = list(rows["text"])
    if "text_pair" not in rows.column_names:
        return first
    return [f"{text} {pair}" for text, pair in zip(first, rows["text_pair"], strict=True)]
