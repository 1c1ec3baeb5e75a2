"""The data of a recipe in lines, as `plan` and `run` print them before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.reporting.run_table import card_lines
from schemas.core.wording import printable
from schemas.data.cards import DataCard, SplitCard

SHOWN = 8
"""Most classes that a line lists in full; of more, it lists the largest and the smallest."""
_OF_MANY = 4
_WIDTH = 30

_COUNTED = {
    "classification": "classes",
    "multi_label": "labels",
    "token_classification": "tags",
    "question_answering": "questions",
    "multiple_choice": "right choices",
}


def data_lines(cards: Mapping[str | None, DataCard]) -> list[str]:
    """Describe how files were read, rows, tokens and class counts of every split, and the corpus.

    Args:
        cards: data cards of several tasks by name; the only card is under None.
    """
    lines: dict[str, None] = {}
    for task, card in cards.items():
        prefix = "" if task is None else f"{task}: "
        lines |= {f"{prefix}{line}": None for line in (*card_lines(card), *class_lines(card))}
    return [*lines]


def class_lines(card: DataCard) -> list[str]:
    """Describe the classes, labels, tags or values of each split in one line."""
    if card.task is None:
        return []
    return [f"{name}, {_classes(card.task.kind, split)}" for name, split in card.task.splits.items() if split.labels]


def _classes(kind: str, split: SplitCard) -> str:
    if kind not in _COUNTED:
        lowest, highest = (f"{split.labels[end]:.6g}" for end in ("lowest", "highest"))
        return f"values: {lowest} to {highest}, mean {split.labels['mean']:.4g}"
    counts = sorted(split.labels.items(), key=lambda item: -item[1])
    total = f"{len(counts):,} {_COUNTED[kind]}"
    if len(counts) <= SHOWN:
        return f"{total}: {_counted(counts)}"
    largest, smallest = counts[:_OF_MANY], counts[-_OF_MANY:]
    return f"{total}: the largest {_counted(largest)}; the smallest {_counted(smallest)}"


def _counted(counts: list[tuple[str, float]]) -> str:
    return ", ".join(f"{printable(name, _WIDTH)} ({number:,.0f})" for name, number in counts)
