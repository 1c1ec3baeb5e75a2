"""What stages hand to each other and what they leave behind: references, manifests, results."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from schemas.core.base import Frozen, Sha256
from schemas.core.metrics import ABOUT_ONE_CLASS, MetricName, titled
from schemas.data.cards import DataCard
from schemas.recipe.stage import StageConfig, StageName

MANIFEST_FORMAT = 1

LabelOrder = Literal["same", "reordered", "unnamed"]
"""How a head's outputs stand to a task's labels."""


class CheckpointRef(Frozen):
    """A finished stage on disk."""

    path: str
    """Folder that holds manifest.json."""
    stage: StageName
    """Which stage made it."""
    digest: Sha256
    """The stage's digest: config, parent, teacher, data, numerics version."""


class FileEntry(Frozen):
    """One file of a checkpoint."""

    size: int = Field(ge=0)
    """Bytes."""
    sha256: Sha256
    """Of its content."""


class Manifest(Frozen):
    """Makes a folder a checkpoint. It is written last; a folder without one is not a checkpoint."""

    format: Literal[1] = 1
    """Version of this layout."""
    stage: StageName
    """Which stage made it."""
    digest: Sha256
    """The stage's digest."""
    parent_digest: Sha256 | None = None
    """Digest of the stage it went on from; null for a fresh start."""
    config: StageConfig
    """The stage as it was run, every part resolved."""
    files: dict[str, FileEntry]
    """Every file, by its path relative to the folder (manifest.json itself excepted)."""
    metrics: dict[str, float]
    """Last value of every metric of the stage."""
    steps: int = Field(ge=0)
    """Optimizer steps taken."""
    tokens: int = Field(ge=0)
    """Real (non-padding) tokens trained on."""
    seconds: float = Field(ge=0)
    """Wall time of training, over all interruptions."""
    num_parameters: int = Field(ge=0)
    """Parameters of the encoder, with pooler where it has one, without head and projections."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the head's outputs; empty without a trained head."""
    positive_label: str | None = None
    """The class that F1 is about in `metrics`; null where none is, and for several tasks."""
    identity: dict[str, Any] = Field(default_factory=dict)
    """What the digest covers; empty in manifests of versions that did not note it."""
    versions: dict[str, str]
    """Versions of Python, the libraries that decide about numbers, and this project with its commit. No digest covers
    them; empty in manifests of versions that did not note them."""
    mlflow_run_id: str | None = None
    """The MLflow run that logged it."""
    created: str
    """When it was committed: UTC, ISO 8601; empty in manifests of versions that did not note it."""


class StageResult(Frozen):
    """What one stage hands on."""

    checkpoint: CheckpointRef
    """The finished stage."""
    metrics: dict[str, float]
    """Last value of every metric."""
    steps: int
    """Optimizer steps taken."""
    tokens: int
    """Real tokens trained on."""
    seconds: float
    """Wall time of training."""
    reused: bool = False
    """True when it was there already."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""


class Score(Frozen):
    """One score with its bootstrap interval."""

    value: float
    """The score."""
    low: float
    """Lower end of the 95 % interval over draws of the rows."""
    high: float
    """Upper end."""
    of: str | None = None
    """The class that it is about, such as the one of an F1; null for scores of all classes."""
    note: str | None = None
    """Why it says nothing of the model, such as that its answers are all the same; null where it does."""


class Judgement(Frozen):
    """The common yardstick, the same for every checkpoint of a run."""

    probe_accuracy: float | None = None
    """Accuracy of a linear probe on the model's frozen features (0 to 1); null without classes."""
    probe_score: float | None = None
    """The task's metric by a linear probe, where a task has no classes; null elsewhere."""
    latent_loss: float | None = None
    """Latent loss on held-out text against the run's last teacher; null where there are no projections for it."""
    task_metric: float | None = None
    """The task's metric by the model's own head; null without a trained head."""
    accuracy: float | None = None
    """Accuracy by the model's own head; null without a trained head, or without classes."""
    agreement: float | None = None
    """How far student and fine-tuned teacher answer the same: the share of equal answers; of labels, those given by
    both among those given by either; of tags, the equal ones among the words that either takes for more than O; the
    correlation of values; the cosine of vectors. Null without heads."""
    agreement_guessed: float | None = None
    """How far the best constant answer says the same as the teacher; null without heads, and for vectors."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """Every score of the task's kind, with intervals."""
    minus_teacher: Score | None = None
    """The task's metric minus the fine-tuned teacher's, with the interval of draws of the same rows for both; null
    without heads, and for vectors, which have no other score than nearness to the teacher's."""
    unseen_scores: dict[str, Score] = Field(default_factory=dict)
    """Every score on validation rows whose text is not in train; empty where none is."""
    unseen_rows: int | None = None
    """How many those are; null where none is in train."""
    further: dict[str, dict[str, Score]] = Field(default_factory=dict)
    """The scores of further validation rows, by their name."""

    @property
    def probed(self) -> float | None:
        """What the linear probe reached, by accuracy or by the task's metric."""
        return self.probe_score if self.probe_accuracy is None else self.probe_accuracy


RowKind = Literal["teacher", "stage", "baseline"]


class Row(Frozen):
    """One line of a run's table."""

    name: str
    """Stage, teacher or baseline."""
    kind: RowKind
    """What the line is about."""
    status: Literal["ran", "reused", "given"]
    """Whether it was made in this run."""
    judgement: Judgement
    """Its scores."""
    tokens: int | None = None
    """Real tokens trained on."""
    seconds: float | None = None
    """Wall time of its training."""
    checkpoint: CheckpointRef | None = None
    """Where it is."""
    mlflow_run_id: str | None = None
    """Its MLflow run."""
    candidate: str | None = None
    """What tells a teacher from the others that were tried, such as `learning_rate 2e-05`; null where none were."""
    candidate_score: float | None = None
    """The score that the best of them was chosen by."""
    candidate_metric: str | None = None
    """Which score that is, in words."""
    chosen: bool = True
    """False for a teacher that was tried, and another taken."""


class TeacherReport(Frozen):
    """Whether a fine-tuned teacher is good enough to distil from."""

    name: str
    """`teacher`, or `other_teacher`."""
    metric: MetricName
    """What is compared with guessing: the task's main score."""
    score: Score
    """The teacher's, on the validation rows, with its 95 % interval."""
    guess: float
    """What always giving the best constant answer gets."""
    margin: float
    """How far the score is above that."""
    gain: float | None = None
    """The margin as a share of what is left to gain over guessing; null where guessing is always right, and in reports
    of versions that did not say."""
    bag_of_words: float | None = None
    """What a bag-of-words model gets; null where the recipe has no such baseline."""
    label_order: LabelOrder | None = None
    """Its outputs beside the task's labels: in the same order, put into it by name, or without names; null where there
    are none to compare."""
    verdict: Literal["good", "weak", "useless"]
    """Useless: has less than teacher.minimum_gain of what is left to gain over guessing. Weak: perhaps less than that,
    or no better than bare words."""
    reason: str
    """Why, in one sentence, and what to do about it."""


class Size(Frozen):
    """How large and how fast the student is beside its teacher."""

    student_parameters: int
    """Encoder with pooler, without head and projections."""
    teacher_parameters: int
    """Encoder with pooler, without head."""
    student_flops: int
    """Encoder, one sequence of 128 tokens, two per multiply-add."""
    teacher_flops: int
    """Encoder, one sequence of 128 tokens, two per multiply-add."""
    speed_up: float | None = None
    """Teacher's time over the student's, same inputs, fp32, median over interleaved rounds."""
    speed_up_low: float | None = None
    """Smallest ratio of a round."""
    speed_up_high: float | None = None
    """Largest ratio of a round."""
    speed_up_sequences: int = 16
    """Sequences of a timed pass; 16 in reports of versions that did not say."""
    speed_up_length: int = 128
    """Their tokens."""


class RunReport(Frozen):
    """Everything a run's closing table says."""

    run: str
    """Name of the run in its store."""
    recipe: str
    """The recipe's name."""
    task: str | None
    """The task's short name."""
    metric: str | None = None
    """The task's metric."""
    positive_label: str | None = None
    """The class that the task's F1 is about; null where none is, and where the task has no such score."""
    data: DataCard | None = None
    """What was read."""
    rows: tuple[Row, ...]
    """Teacher, stages in order, baselines; behind a chosen teacher the candidates that were not."""
    teachers: tuple[TeacherReport, ...] = ()
    """Whether each fine-tuned teacher is good enough; empty where there is nothing to compare it with."""
    size: Size | None = None
    """Sizes and speed."""
    validation_rows: int | None = None
    """Rows that the scores were measured on."""
    validation_rows_of: int | None = None
    """Rows that those were drawn from, by class; as many where all are scored."""
    further_rows: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Rows scored, and rows that they were drawn from, of further validation rows, by their name."""
    majority: float | None = None
    """What guessing gets: the task's metric of the best constant answer, such as always the most frequent class."""
    guessed: dict[str, float] = Field(default_factory=dict)
    """The same by each of the task's scores; empty in reports of versions that did not say."""
    retained: float | None = None
    """Student's metric over the teacher's."""
    retained_above_chance: float | None = None
    """(student's metric - majority) / (teacher's metric - majority); null where the teacher is not above guessing."""
    gains_retained: dict[str, float] = Field(default_factory=dict)
    """The same by each of the task's scores that the teacher is above guessing by."""
    seconds: float
    """Wall time of the whole run."""
    mlflow_run_id: str | None = None
    """The parent run."""
    mlflow_experiment_id: str | None = None
    """The experiment it stands in."""
    store: str
    """The store's folder."""
    resolved: dict[str, Any] = Field(default_factory=dict)
    """The recipe as it was run."""

    @property
    def metric_title(self) -> str:
        """The task's metric for people, with the class that it is about: `f1 of fraud`."""
        of = self.positive_label if self.metric in ABOUT_ONE_CLASS else None
        return titled(self.metric or "task metric", of)
