"""The closing table of a run: a student's forms beside its teacher, by size, time, score and equal answers."""

from __future__ import annotations

from schemas.core.base import Frozen
from schemas.results.latency import Latency
from schemas.results.score import Score


class Form(Frozen):
    """A model as it is deployed: in torch, or as an ONNX file."""

    name: str
    """Teacher, student, or a file of the student."""
    size: int
    """Bytes of its weights on disk."""
    latency: Latency
    """Time for one text, the teacher's as the reference."""
    score: Score | None
    """The task's main score with its interval; null without a head or without labels."""
    same_answers: float | None
    """Agreement with the student in torch, for classes the share of equal answers; null for models in torch."""


class Shipping(Frozen):
    """The student's forms beside its teacher, measured in turn."""

    forms: tuple[Form, ...]
    """The teacher first."""
    texts: str
    """Origin of the texts."""
    rounds: int
    """Rounds, in each of which every form answered every text."""
    processor: str
    """Processor that it was measured on."""
    is_busy: bool
    """True if other work took a part of the processor: wall times are then too long."""
    is_kept: bool = False
    """True if an earlier run measured the same forms on a processor of this kind."""
    example: dict[str, str] | None = None
    """A validation row as a reader would type it: `text`, and `text_pair` for pairs; null for a student without a
    head."""
    python: str | None = None
    """A Python program that answers the example with the student's folder; null in reports of earlier versions."""

    @property
    def has_exports(self) -> bool:
        """True if exported files were measured beside the models in torch."""
        return len(self.forms) > 2
