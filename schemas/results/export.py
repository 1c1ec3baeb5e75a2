"""Results of `distill export`: the files that a student was exported to, and how each of them answers."""

from __future__ import annotations

from typing import Literal

from schemas.core.base import Frozen, Sha256
from schemas.core.kinds import ParsedKind
from schemas.core.metrics import MetricName
from schemas.results.manifest import FileEntry
from schemas.results.score import Score

EXPORT = "export.json"
"""Name of an export's manifest."""
NumberFormat = Literal["fp32", "fp16", "int8"]


class ExportedModel(Frozen):
    """One exported model file, checked against the checkpoint on real texts."""

    file: str
    """Path in the export's folder."""
    number_format: NumberFormat
    """Number format of its weights."""
    variant: str | None = None
    """Way of quantisation; null for other formats."""
    size: int
    """Bytes."""
    rows: int
    """Texts that it was checked on."""
    largest_difference: float
    """Largest absolute difference of an output from the checkpoint's, before softmax."""
    mean_difference: float
    """Mean absolute difference."""
    batch_difference: float
    """Largest absolute difference of an output in a batch of 16 from the same text alone."""
    same_answers: float | None = None
    """Agreement with the checkpoint, for classes the share of equal answers; null without a head."""
    score: Score | None = None
    """Its score with the interval; null without labels."""
    minus_checkpoint: Score | None = None
    """Its score minus the checkpoint's, with the interval over the same rows; null without labels."""


class VocabularyCut(Frozen):
    """Change of the answers when a student's vocabulary was pruned, on the checked texts."""

    kept: int
    """Pieces that stay."""
    of: int
    """Pieces of the student's vocabulary."""
    rows: int
    """Texts that both answered; none of them decided what stays."""
    same_pieces: float
    """Share of their sequences that are cut into the same pieces as before."""
    same_answers: float | None
    """Agreement with the whole student, for classes the share of equal answers; null without a head."""
    minus_checkpoint: Score | None
    """Score minus the whole student's, with the interval over the same rows; null without labels."""


class TaskForm(Frozen):
    """Form of a task's rows and answers: what predictions need to know of the task."""

    problem: ParsedKind
    """Kind of the task."""
    text: str
    """Column of the text, the question, the passage, or the words."""
    pair: str | None = None
    """Column of a second text: the other of a pair, the context, or the question about a passage; null without one."""
    has_pair: bool | None = False
    """True where rows have a second text; null where that is not known."""
    no_answer: bool = False
    """True where a question may have no answer in its context."""


class ExportManifest(Frozen):
    """The manifest of an export, `export.json`."""

    format: Literal[1] = 1
    """Version of this layout."""
    stage: str
    """Stage of the checkpoint."""
    digest: Sha256
    """Digest of the checkpoint."""
    task: str | None
    """Short name of the task; null without a head."""
    metric: MetricName | None
    """The task's main score."""
    score: Score | None
    """The checkpoint's score in torch with the interval; null without labels."""
    form: TaskForm | None = None
    """Form of the task's rows; null without a head, and in manifests of versions that did not record it."""
    labels: tuple[str, ...]
    """Names of the outputs, in their order."""
    max_length: int
    """Tokens of the longest sequence."""
    vocabulary: int
    """Tokens of the vocabulary."""
    pruned: VocabularyCut | None = None
    """The loss by pruning the vocabulary; null if it is whole."""
    checkpoint_size: int
    """Bytes of the weights in torch's format."""
    models: tuple[ExportedModel, ...]
    """Exported model files."""
    files: dict[str, FileEntry]
    """Every file but export.json, by its path in the folder."""
    processor: str
    """Processor on which the files were checked; answers in 8 bits differ between processors."""
    versions: dict[str, str]
    """Versions of Python, of libraries, and of this project."""
    created: str
    """Time of the export, in UTC and ISO 8601."""
