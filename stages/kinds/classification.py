"""Classification: one class for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from typing_extensions import override

from schemas.core.errors import DataError
from schemas.core.kinds import Classification
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName
from schemas.core.wording import printable
from stages.data.columns.class_names import read_class_names
from stages.data.columns.text_columns import Task, task_texts
from stages.data.readers.files import first_row
from stages.kinds.base import Logits, Numbers, SingleLabelKind, labels_of, pair_texts
from stages.kinds.label_codes import codes_of, unknown_label
from stages.kinds.rows import CheckedRows, ScoredRows, TaskRows, as_dataset
from stages.scores.positive_class import positive_label, unclear

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from schemas.data.tasks import AnyTask
    from schemas.recipe.objective import SoftLabels
    from stages.data.batching.tokens import Batch
    from stages.losses import Summed
    from stages.models.heads import Head


class ClassificationKind(SingleLabelKind[Classification]):
    """One class a row."""

    has_class_names: ClassVar[bool] = True
    probe_metric: ClassVar[MetricName | None] = "accuracy"

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        names = read_class_names(task, raw, where)
        splits = {}
        for split, rows in raw.items():
            columns = task_texts(task, rows, where[split])
            codes = codes_of(names.splits[split], names.labels)
            if row := first_row(pc.is_null(codes)):
                name = names.splits[split][row - 1].as_py()
                raise unknown_label(task, where[split], row, name, names.labels)
            splits[split] = as_dataset({**columns, "label": codes})
        return CheckedRows(splits, names.labels, names.remarks)

    @override
    def check_drawn(self, train: Dataset) -> None:
        if len(set(train["label"][:])) < 2:
            raise DataError("task: all training rows have the same label; a task needs two classes or more")

    @override
    def positive_label(
        self, task: AnyTask, train: Dataset, labels: tuple[str, ...]
    ) -> tuple[str | None, tuple[str, ...]]:
        return positive_label(task, train, labels)

    @override
    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        classes = set(rows["label"][:])
        return None if len(classes) > 1 else f"the answer is {printable(labels[classes.pop()], 120)}"

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        counts = np.bincount(np.asarray(rows["label"][:]), minlength=len(labels))
        return dict(zip(labels, counts.tolist(), strict=True))

    @property
    @override
    def head(self) -> Head:
        from stages.models.heads import TaskHead

        return TaskHead(self.config.kind)

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import soft_label_loss

        return soft_label_loss(
            student, teacher, temperature=config.temperature, kind=config.loss, row_weights_B=row_weights
        )

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        from stages.losses import hard_label_loss

        return hard_label_loss(student, labels_of(batch))

    @override
    def answers(self, rows: ScoredRows[Numbers], logits: Logits) -> Numbers:
        return np.stack(logits).argmax(-1)

    @override
    def constants(self, rows: ScoredRows[Numbers]) -> list[Numbers]:
        labels = self.labels(rows)
        classes = {int(np.bincount(labels).argmax())}
        if rows.task.positive_label is not None:  # the F1 of a class is best when it is always the answer
            classes.add(rows.task.labels.index(rows.task.positive_label))
        return [np.full(len(labels), constant) for constant in sorted(classes)]

    @override
    def reported(self, rows: ScoredRows[Numbers]) -> tuple[MetricName, ...]:
        about_one: tuple[MetricName, ...] = ("f1",) if rows.task.positive_label else ()
        if len(rows.task.labels) == 2:
            return ("accuracy", *(about_one or ("f1_macro",)), "matthews")
        return ("accuracy", "f1_macro", *about_one)

    @override
    def why_no_score(self, metric: MetricName, rows: TaskRows) -> str | None:
        needs_class = metric in ABOUT_ONE_CLASS and rows.positive_label is None
        return unclear(metric, rows.labels) if needs_class else None

    @override
    def why_meaningless(self, rows: ScoredRows[Numbers], metric: MetricName, labels: Any) -> str | None:
        label = rows.task.positive_label
        if metric not in ABOUT_ONE_CLASS or label is None:
            return None
        if (np.asarray(labels) == rows.task.labels.index(label)).any():
            return None
        return f"no row is {printable(label, 40)}, and no F1 of it means anything"

    @override
    def bag_of_words(self, rows: ScoredRows[Numbers]) -> Numbers:
        """Return the answers of a logistic regression; for pairs, on the words that the texts share or do not share."""
        from sklearn.linear_model import LogisticRegression

        from stages.text.bag_of_words import row_features, word_counts

        train = rows.task.train
        solver = "liblinear" if len(rows.task.labels) == 2 else "lbfgs"
        counter, _ = word_counts(pair_texts(train))
        model = LogisticRegression(max_iter=200, solver=solver)
        model.fit(row_features(counter, train), np.asarray(train["label"]))
        return np.asarray(model.predict(row_features(counter, rows.data)))

    @override
    def renamed(self, rows: ScoredRows[Numbers], answers: Numbers) -> tuple[Numbers, list[str]]:
        from scipy.optimize import linear_sum_assignment

        names = rows.task.labels
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (answers, self.labels(rows)), 1)
        outputs, classes = linear_sum_assignment(counts, maximize=True)
        class_of = np.zeros(len(names), np.int64)
        class_of[outputs] = classes
        return class_of[answers], [names[number] for number in class_of]
