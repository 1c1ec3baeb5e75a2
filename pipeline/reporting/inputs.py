"""What a recipe reads, in lines, as `plan` and `run` print them before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.reporting.run_table import card_lines
from schemas.core.wording import printable
from schemas.data.cards import DataCard, SplitCard

SHOWN = 8
"""Classes that a line names all of; of more, the largest and the smallest."""
_OF_MANY = 4
_WIDTH = 30

_COUNTED = {
    "classification": "classes",
    "multi_label": "labels",
    "token_classification": "tags",
    "question_answering": "questions",
    "multiple_choice": "right choices",
}


def what_is_read(cards: Mapping[str | None, DataCard]) -> list[str]:
    """How files were read, rows and tokens of every split, its classes with their counts, and the corpus.

    Args:
        cards: of every task by its name; under None where there is one, or none.
    """
    lines: dict[str, None] = {}
    for task, card in cards.items():
        own = [*card_lines(card), *class_lines(card)]
        lines |= dict.fromkeys(line if task is None else f"{task}: {line}" for line in own)
    return [*lines]


def class_lines(card: DataCard) -> list[str]:
    """A line for the classes, labels, tags or values of each split."""
    if card.task is None:
        return []
    return [f"{name}, {_classes(card.task.kind, split)}" for name, split in card.task.splits.items() if split.labels]


def _classes(kind: str, split: SplitCard) -> str:
    if kind not in _COUNTED:
        lowest, highest = (f"{split.labels[end]:.6g}" for end in ("lowest", "highest"))
        return f"values: {lowest} to {highest}, mean {split.labels['mean']:.4g}"
    counts = sorted(split.labels.items(), key=lambda each: -each[1])
    what = f"{len(counts):,} {_COUNTED[kind]}"
    if len(counts) <= SHOWN:
        return f"{what}: {_counted(counts)}"
    largest, smallest = counts[:_OF_MANY], counts[-_OF_MANY:]
    return f"{what}: the largest {_counted(largest)}; the smallest {_counted(smallest)}"


def _counted(counts: list[tuple[str, float]]) -> str:
    return ", ".join(f"{printable(name, _WIDTH)} ({number:,.0f})" for name, number in counts)
