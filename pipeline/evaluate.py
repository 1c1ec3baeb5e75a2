"""`distill evaluate`: scores of a checkpoint and of the teacher it learned from, by the judge of every run."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from pydantic import Field
from rich.console import Console

from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.recipes.task_argument import task_argument
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.run_table import notes_on, percent, with_interval
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint, store_for_look
from schemas.core.base import Frozen
from schemas.core.errors import CheckpointError, ConfigError, DataError
from schemas.core.metrics import titled
from schemas.core.refs import FolderModel
from schemas.data.tasks import describe_task
from schemas.recipe.teacher import FinetunedTeacher, TeacherStageName, located, members_of
from schemas.results.manifest import Manifest
from schemas.results.score import Score
from stages.data.tasks.load import load_task
from stages.identity import model_digest
from stages.judge import head_scores, task_scorers
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.sentence_encoder import Model
from stages.storage.format_versions import NUMERICS_VERSION
from stages.storage.sealed_folder import MANIFEST

log = logging.getLogger(__name__)


class Scored(Frozen):
    """Scores of one model."""

    name: str
    """Model."""
    scores: dict[str, Score]
    """Every score of the task's kind, with its bootstrap interval; the task's metric first."""
    unseen_scores: dict[str, Score] = Field(default_factory=dict)
    """The scores on rows whose text is not in train; empty where no text is."""
    further: dict[str, dict[str, Score]] = Field(default_factory=dict)
    """The scores of further validation rows, by their name."""


class Scores(Frozen):
    """Scores of a checkpoint and of its teacher."""

    task: str
    """The task's short name."""
    metric: str
    """The main metric."""
    positive_label: str | None
    """The class that F1 is about; null for tasks without one."""
    rows: int
    """Validation rows scored."""
    unseen_rows: int
    """Validation rows whose text is not in train."""
    guessed: float | None
    """Main score of the best constant prediction; null where guessing is impossible."""
    guesses: dict[str, float] = Field(default_factory=dict)
    """Every score of the best constant prediction."""
    models: tuple[Scored, ...]
    """The checkpoint, then its teacher where it had one."""
    remarks: tuple[str, ...] = ()
    """Readings of the task's files where several were possible."""


def evaluate_checkpoint(folder: Path, task: str, store: Path | None) -> Scores:
    """Score a checkpoint, and the fine-tuned teacher it learned from if that is still available.

    Raises:
        ConfigError: no such task, or the checkpoint has no trained head.
        CheckpointError: the folder is no checkpoint, or it is damaged.
    """
    with store_for_look(read_settings(store).store) as opened:
        return _evaluate(folder, task, opened)


def _evaluate(folder: Path, task: str, store: CheckpointStore) -> Scores:
    cache = store.cache
    reference, manifest = open_checkpoint(folder)
    if not manifest.labels:
        raise ConfigError(
            f"{folder}: a {manifest.stage} checkpoint has no trained head; evaluate a task_specific checkpoint, or see "
            "its probe accuracy with: distill compare"
        )
    data = task_argument(task, manifest)
    metric = data.main_metric
    # Rows without a text or a label are reported in remarks; only recipes limit their share.
    rows = load_task(data, cache, droppable=1)
    student = Path(reference.path) / "model"
    tokenizer = load_tokenizer(student, load_config(student))
    scorers = task_scorers(rows, tokenizer, max_length=data.max_length, cache=cache)
    scorer = scorers.pop("validation")
    models = {name: _load(rows, path) for name, path in _model_folders(manifest, student, store).items()}
    if not scorer.can_score:
        if "teacher" not in models:
            raise ConfigError(
                f"{folder}: its vectors are compared with its teacher's, which cannot be used; make the teacher again "
                "with: distill run"
            )
        scorer = scorer.with_teacher(scorer.answers_of(models["teacher"]))
    judged = {
        name: head_scores(model, scorer.answers_of(model), scorer, scorers, metric) for name, model in models.items()
    }
    return Scores(
        task=describe_task(data),
        metric=metric,
        positive_label=rows.positive_label,
        rows=scorer.counted[0],
        unseen_rows=int((~scorer.in_train).sum()),
        guessed=scorer.guessed(metric),
        guesses=scorer.all_guessed(metric),
        models=tuple(
            Scored(name=name, **{field: scores[field] for field in ("scores", "unseen_scores", "further")})
            for name, scores in judged.items()
        ),
        remarks=rows.remarks,
    )


def _load(rows: TaskRows, folder: Path) -> Model:
    head = kind_of(rows.problem).head
    model = head.load(folder)
    head.match_labels(model, rows.labels, folder)
    return model


def _model_folders(manifest: Manifest, student: Path, store: CheckpointStore) -> dict[str, Path]:
    """The student's folder, and that of its last fine-tuned teacher if it is available and unchanged."""
    folders: dict[str, Path] = {manifest.stage: student}
    members = members_of(manifest.config.teacher)
    for teacher, digest in zip(members, _teacher_digests(manifest, len(members)), strict=True):
        if not isinstance(teacher, FinetunedTeacher):
            continue
        teacher = located(_in_moved_store(teacher, student.parent), partial(_folder_of, store, student.parent.parent))
        folder = Path(getattr(teacher.model, "path", ""))
        if not folder.is_dir():
            continue
        if (reason := _why_unusable(teacher, folder, digest)) is not None:
            log.warning("the teacher is left out: %s", reason)
            continue
        folders["teacher"] = locate(teacher.model)
    return folders


def _folder_of(store: CheckpointStore, beside: Path, stage: TeacherStageName, digest: str) -> Path:
    """The folder of a teacher's checkpoint: beside the student's or in the store; it need not exist."""
    folder = beside / f"{stage}-{digest[:16]}"
    match = None if folder.is_dir() else store.find(stage, digest)
    return folder if match is None else Path(match[0].path)


def _in_moved_store(teacher: FinetunedTeacher, checkpoint: Path) -> FinetunedTeacher:
    """The teacher of a version that recorded paths: there or, if the store was moved, beside the checkpoint."""
    recorded = Path(getattr(teacher.model, "path", ""))
    moved = checkpoint.parent / recorded.parent.name / recorded.name
    if recorded.is_dir() or not moved.is_dir():
        return teacher
    return teacher.model_copy(update={"model": FolderModel(path=str(moved))})


def _teacher_digests(manifest: Manifest, count: int) -> list[str | None]:
    """Digest of each teacher when the student learned from it; None where another version recorded it."""
    identity = manifest.identity
    recorded = identity.get("teacher") if identity.get("numerics") == NUMERICS_VERSION else None
    members = recorded.get("members") if isinstance(recorded, dict) else [recorded]
    return members if isinstance(members, list) and len(members) == count else [None] * count


def _why_unusable(teacher: FinetunedTeacher, folder: Path, digest: str | None) -> str | None:
    """The reason why a folder does not hold the teacher that the student learned from; None if it may."""
    another = f"{folder} does not hold the model that the student learned from"
    is_checkpoint = (folder.parent / MANIFEST).is_file()
    try:
        if is_checkpoint or teacher.stage_digest is not None:
            _, manifest = open_checkpoint(folder if is_checkpoint else folder.parent)
            return None if teacher.stage_digest in (None, manifest.digest) else another
        return None if digest in (None, model_digest(teacher.model)) else another
    except (CheckpointError, DataError) as error:
        return str(error)


def scores_table(scores: Scores) -> ResultTable:
    """The scores of each model with their intervals, on all rows and on subsets, and those of guessing."""
    first = scores.models[0].scores
    columns = [Column(f"{titled(name, score.of)} %") for name, score in first.items()]
    rows = []
    for model in scores.models:
        parts = {model.name: model.scores}
        if model.unseen_scores:
            parts[f"{model.name}, {scores.unseen_rows:,} rows not in train"] = model.unseen_scores
        parts |= {f"{model.name}, {split}": split_scores for split, split_scores in model.further.items()}
        rows += [
            TableRow((title, *(with_interval(part_scores.get(name)) for name in first)))
            for title, part_scores in parts.items()
        ]
    if scores.guesses:
        rows.append(TableRow(("guessing", *(percent(scores.guesses.get(name)) for name in first)), "dim"))
    title = f"{scores.task}: {scores.rows:,} validation rows"
    return ResultTable((Column("model", "", is_text=True, wraps=True), *columns), tuple(rows), title)


def print_scores(scores: Scores, console: Console) -> None:
    """Print how the rows were read, the table of scores, and notes on scores that are meaningless."""
    for remark in scores.remarks:
        say(console, remark)
    console.print(as_terminal(scores_table(scores)))
    for model in scores.models:
        for note in notes_on(model.scores):
            say(console, f"{model.name}: {note}")
