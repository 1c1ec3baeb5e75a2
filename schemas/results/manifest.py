"""Results of stages and runs: checkpoint references, manifests, judgements, reports."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from schemas.core.base import Frozen, Sha256
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName, titled
from schemas.data.cards import DataCard
from schemas.recipe.stage import StageConfig, StageName
from schemas.results.score import Draws, Score
from schemas.results.shipping import Shipping

LabelOrder = Literal["same", "reordered", "unnamed"]
"""Order of a head's outputs relative to the task's labels."""


class CheckpointRef(Frozen):
    """Reference to a finished stage on disk."""

    path: str
    """Folder of manifest.json, where this process finds it; the store is asked for it by stage and digest."""
    stage: StageName
    """Stage that made it."""
    digest: Sha256
    """Digest of the stage: config, parent, teacher, data, numerics version."""


class FileEntry(Frozen):
    """A file of a checkpoint."""

    size: int = Field(ge=0)
    """Size in bytes."""
    sha256: Sha256
    """Hash of its content."""


class Manifest(Frozen):
    """The manifest of a checkpoint. It is written last: a folder without one is not a checkpoint."""

    format: Literal[1] = 1
    """Version of this layout."""
    stage: StageName
    """Stage that made it."""
    digest: Sha256
    """The stage's digest."""
    parent_digest: Sha256 | None = None
    """Digest of the stage that it continued; null for a fresh start."""
    config: StageConfig
    """The stage as it was run, in full."""
    files: dict[str, FileEntry]
    """Every file but manifest.json, by its path in the folder."""
    metrics: dict[str, float]
    """Last value of every metric of the stage."""
    steps: int = Field(ge=0)
    """Optimizer steps."""
    tokens: int = Field(ge=0)
    """Real (non-padding) tokens trained on."""
    seconds: float = Field(ge=0)
    """Wall time of the training in seconds, without interruptions."""
    num_parameters: int = Field(ge=0)
    """Parameters of the encoder with its pooler, without head and projections."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the head's outputs; empty without a trained head."""
    positive_label: str | None = None
    """Class of the F1 in `metrics`; null without such a class, and for several tasks."""
    identity: dict[str, Any] = Field(default_factory=dict)
    """Values that the digest covers; empty in manifests of versions that did not record them."""
    versions: dict[str, str]
    """Versions of Python, of libraries that affect numbers, and of this project with its commit. No digest covers them;
    empty in manifests of versions that did not record them."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""
    created: str
    """Time of the commit, in UTC and ISO 8601; empty in manifests of versions that did not record it."""


class StageResult(Frozen):
    """The result of a stage."""

    checkpoint: CheckpointRef
    """The finished stage."""
    metrics: dict[str, float]
    """Last value of every metric."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Real (non-padding) tokens trained on."""
    seconds: float
    """Wall time of the training in seconds."""
    reused: bool = False
    """True if the store had it already."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""


class Judgement(Frozen):
    """Scores by the common yardstick, which is the same for every checkpoint of a run."""

    probe_accuracy: float | None = None
    """Accuracy (0 to 1) of a linear probe on frozen features; null for tasks without classes."""
    probe_score: float | None = None
    """The task's metric by a linear probe, for tasks without classes; null for all others."""
    latent_loss: float | None = None
    """Latent loss on held-out text against the run's last teacher; null without projections for it."""
    task_metric: float | None = None
    """The task's metric by the model's own head; null without a trained head."""
    accuracy: float | None = None
    """Accuracy by the model's own head; null without a trained head, or without classes."""
    agreement: float | None = None
    """Agreement of student and fine-tuned teacher: the share of equal answers; of labels, those predicted by both among
    those predicted by either; of tags, the equal ones among words that either tags as more than O; the correlation of
    values; the cosine of vectors. Null without heads."""
    agreement_guessed: float | None = None
    """Agreement of the best constant prediction with the teacher; null without heads, and for vectors."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """All scores of the task's kind, with intervals."""
    minus_teacher: Score | None = None
    """The task's metric minus the fine-tuned teacher's, with the interval over the same resampled rows; null without
    heads except for a bag of words, and for vectors, whose score is itself a comparison with the teacher."""
    unseen_scores: dict[str, Score] = Field(default_factory=dict)
    """All scores on validation rows whose text is not in train; empty if no text is in train."""
    unseen_rows: int | None = None
    """Number of those rows; null if no text is in train."""
    further: dict[str, dict[str, Score]] = Field(default_factory=dict)
    """All scores on further validation rows, by their name."""
    draws: Draws | None = None
    """Scores of resampled rows; null in reports, where `kept` leads to them, without a task, and in evaluations of
    versions that did not keep them."""
    kept: Sha256 | None = None
    """Digest under which the store keeps the evaluation; null in reports of versions that did not record it."""

    @property
    def probed(self) -> float | None:
        """Score of the linear probe, by accuracy or by the task's metric."""
        return self.probe_score if self.probe_accuracy is None else self.probe_accuracy


RowKind = Literal["teacher", "stage", "baseline"]


BEFORE = "before"
"""Name of the row of a student before its first stage, which has no checkpoint."""


class Row(Frozen):
    """A row of a run's table."""

    name: str
    """Stage, teacher or baseline."""
    kind: RowKind
    """Kind of the row."""
    status: Literal["ran", "reused", "given"]
    """Origin in this run: made, reused, or a published model."""
    judgement: Judgement
    """Scores of the model."""
    tokens: int | None = None
    """Real (non-padding) tokens trained on."""
    seconds: float | None = None
    """Wall time of the training in seconds."""
    checkpoint: CheckpointRef | None = None
    """Its checkpoint."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""
    candidate: str | None = None
    """Settings that tell a teacher's candidate from the others, such as `learning_rate 2e-05`; null without others."""
    candidate_score: float | None = None
    """The candidate's score in the choice of the teacher."""
    candidate_metric: str | None = None
    """Title of that score."""
    chosen: bool = True
    """False for candidates that were not chosen."""


class TeacherReport(Frozen):
    """Verdict on a fine-tuned teacher: whether it is good enough to distil from."""

    name: str
    """`teacher`, or `other_teacher`."""
    metric: MetricName
    """The task's main score, which is compared with guessing."""
    score: Score
    """The teacher's score on the validation rows, with its 95 % interval."""
    guess: float
    """Score of the best constant prediction (majority baseline)."""
    margin: float
    """Difference of the two scores."""
    gain: float | None = None
    """The margin as a share of the possible gain over guessing; null if guessing is always right, and in reports of
    versions that did not record it."""
    bag_of_words: float | None = None
    """Score of a bag-of-words model; null without that baseline."""
    label_order: LabelOrder | None = None
    """Order of its outputs relative to the task's labels: the same, reordered by name, or without names; null if there
    is nothing to compare."""
    verdict: Literal["good", "weak", "useless"]
    """Useless: gains less over guessing than teacher.minimum_gain. Weak: may gain less than that, or may be no better
    than a bag of words."""
    reason: str
    """Reason in one sentence, and what to do."""
    lacks: tuple[str, ...] = ()
    """Weaknesses that were measured, each in one sentence with a remedy; empty in reports of versions that recorded
    none."""


class Size(Frozen):
    """Size and speed of the student and its teacher."""

    student_parameters: int
    """Encoder with pooler, without head and projections."""
    teacher_parameters: int
    """Encoder with pooler, without head."""
    student_flops: int
    """Encoder, one sequence of 128 tokens, two per multiply-add."""
    teacher_flops: int
    """Encoder, one sequence of 128 tokens, two per multiply-add."""
    speed_up: float | None = None
    """Ratio of the teacher's time to the student's in reports of versions that had no `shipping`: same inputs, fp32,
    median over interleaved rounds."""
    speed_up_low: float | None = None
    """Smallest ratio of a round."""
    speed_up_high: float | None = None
    """Largest ratio of a round."""
    speed_up_sequences: int = 16
    """Sequences of a timed pass; 16 in reports of versions that did not record it."""
    speed_up_length: int = 128
    """Tokens of each sequence."""


class RunReport(Frozen):
    """Everything that a run's closing table shows."""

    run: str
    """Name of the run in its store."""
    recipe: str
    """The recipe's name."""
    task: str | None
    """The task's short name."""
    seed: int | None = None
    """Its seed among several of one recipe; null where the recipe lists none."""
    metric: str | None = None
    """The task's metric."""
    positive_label: str | None = None
    """Class of the task's F1; null without such a class or such a score."""
    data: DataCard | None = None
    """Data card of the run."""
    rows: tuple[Row, ...]
    """Teacher, candidates that were not chosen, stages in order, baselines."""
    teachers: tuple[TeacherReport, ...] = ()
    """Verdicts on the fine-tuned teachers; empty without a score of guessing."""
    size: Size | None = None
    """Sizes and speed."""
    shipping: Shipping | None = None
    """The student's forms beside its teacher; null where they were not measured."""
    validation_rows: int | None = None
    """Validation rows that were scored."""
    validation_rows_of: int | None = None
    """Validation rows from which those were drawn by class."""
    further_rows: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Rows scored and rows available of further validation rows, by their name."""
    majority: float | None = None
    """The task's metric of the best constant prediction, such as the most frequent class."""
    guessed: dict[str, float] = Field(default_factory=dict)
    """All scores of the best constant prediction; empty in reports of versions that did not record them."""
    retained: float | None = None
    """Ratio of the student's metric to the teacher's."""
    retained_above_chance: float | None = None
    """(student's metric - majority) / (teacher's metric - majority); null if the teacher is not above guessing."""
    gains_retained: dict[str, float] = Field(default_factory=dict)
    """That ratio for every score in which the teacher is above guessing."""
    minus_control: Score | None = None
    """Student's metric minus that of the same student on hard labels alone, on the same rows; null without either."""
    seconds: float
    """Wall time of the whole run in seconds."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""
    mlflow_experiment_id: str | None = None
    """Its MLflow experiment."""
    mlflow_view: bool = False
    """True if MLflow has a view of the rows side by side, under the id of the run."""
    store: str
    """The store's folder."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The recipe as it was run."""

    @property
    def metric_title(self) -> str:
        """Title of the task's metric, with its class: `f1 of fraud`."""
        of = self.positive_label if self.metric in ABOUT_ONE_CLASS else None
        return titled(self.metric or "task metric", of)
