"""The class of every kind of task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from stages.kinds.choices import ChoiceKind
from stages.kinds.classification import ClassificationKind
from stages.kinds.multi_label import MultiLabelKind
from stages.kinds.regression import RegressionKind
from stages.kinds.spans import SpanKind
from stages.kinds.tags import TagKind
from stages.kinds.vectors import VectorKind

if TYPE_CHECKING:
    from stages.kinds.base import AnyKind

KINDS: dict[type[TaskKind], type[AnyKind]] = {
    Classification: ClassificationKind,
    MultiLabel: MultiLabelKind,
    Regression: RegressionKind,
    TokenClassification: TagKind,
    QuestionAnswering: SpanKind,
    MultipleChoice: ChoiceKind,
    Embedding: VectorKind,
}


def kind_of(config: TaskKind) -> AnyKind:
    """Return the kind that a task's `problem` configures."""
    return KINDS[type(config)](config)
