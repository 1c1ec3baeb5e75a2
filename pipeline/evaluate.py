"""`distill evaluate`: the metric of a checkpoint, and of the teacher it learned from, on a task."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pydantic import Field
from rich.console import Console

from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.run_table import notes_on, percent
from pipeline.store.checkpoints import MANIFEST, open_checkpoint, store_for_look
from pipeline.task_argument import named_task
from schemas.core.base import Frozen
from schemas.core.errors import CheckpointError, ConfigError, DataError
from schemas.core.metrics import MetricName, titled
from schemas.core.refs import FolderModel
from schemas.data.tasks import describe_task
from schemas.recipe.teacher import FinetunedTeacher, members_of
from schemas.results.manifest import Manifest, Score
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_split
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.identity import NUMERICS_VERSION, model_digest
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.models.encoders import load_config, load_tokenizer, locate

log = logging.getLogger(__name__)


class Scored(Frozen):
    """One model's answers."""

    name: str
    """Model."""
    scores: dict[str, Score]
    """Every score of the task's kind, with its bootstrap interval; the task's metric first."""
    unseen_scores: dict[str, Score] = Field(default_factory=dict)
    """The same on rows whose text is not in train; empty where none is."""
    further: dict[str, dict[str, Score]] = Field(default_factory=dict)
    """The scores of further validation rows, by their name."""


class Scores(Frozen):
    """A checkpoint beside its teacher."""

    task: str
    """The task's short name."""
    metric: str
    """Which metric is the main one."""
    positive_label: str | None
    """The class that F1 is about; null where none is."""
    rows: int
    """Validation rows scored."""
    unseen_rows: int
    """Those whose text is not in train."""
    guessed: float | None
    """What the best constant answer gets, by the main metric; null where there is none."""
    guesses: dict[str, float] = Field(default_factory=dict)
    """The same by every score of the task's kind."""
    models: tuple[Scored, ...]
    """The checkpoint, then its teacher where it had one."""
    remarks: tuple[str, ...] = ()
    """How the task's files were read, where that could have been done in another way."""


def evaluate_checkpoint(folder: Path, task: str, store: Path | None) -> Scores:
    """Score a checkpoint, and the fine-tuned teacher it learned from where that is still there.

    Raises:
        ConfigError: no such task, or the checkpoint has no trained head.
        CheckpointError: the folder is no checkpoint, or it is damaged.
    """
    with store_for_look(read_settings(store).store) as opened:
        return _evaluate(folder, task, opened.cache)


def _evaluate(folder: Path, task: str, cache: Path) -> Scores:
    reference, manifest = open_checkpoint(folder)
    if not manifest.labels:
        raise ConfigError(
            f"{folder}: a {manifest.stage} checkpoint has no trained head; evaluate a task_specific checkpoint, or see "
            "its probe accuracy with: distill compare"
        )
    data = named_task(task, manifest)
    # What is left out is said, and no recipe has a limit here.
    rows = load_task(data, cache, droppable=1)
    model_folder = Path(reference.path) / "model"
    tokenizer = load_tokenizer(model_folder, load_config(model_folder))
    scorers = {
        split: scorer_of(
            rows,
            split,
            tokenize_split(rows, split, tokenizer, max_length=data.max_length, cache=cache),
            np.arange(len(rows.split(split))),
        )
        for split in ("validation", *rows.more)
    }
    folders = {manifest.stage: model_folder, **_teacher_folder(manifest, Path(reference.path))}
    main = scorers["validation"]
    if not main.can_score:
        if "teacher" not in folders:
            raise ConfigError(
                f"{folder}: its vectors are compared with its teacher's, which cannot be used; make the teacher again "
                "with: distill run"
            )
        main = main.with_teacher(main.answers_of(main.kind.head.load(folders["teacher"])))
        scorers["validation"] = main
    return Scores(
        task=describe_task(data),
        metric=data.main_metric,
        positive_label=rows.positive_label,
        rows=main.counted[0],
        unseen_rows=int((~main.in_train).sum()),
        guessed=main.guessed(data.main_metric),
        guesses=main.all_guessed(data.main_metric),
        models=tuple(_scored(name, place, data.main_metric, rows, scorers) for name, place in folders.items()),
        remarks=rows.remarks,
    )


def _teacher_folder(manifest: Manifest, checkpoint: Path) -> dict[str, Path]:
    """The last fine-tuned teacher that a checkpoint learned from, where it is still there and still the same."""
    found: dict[str, Path] = {}
    members = members_of(manifest.config.teacher)
    for teacher, digest in zip(members, _digests_of_teachers(manifest, len(members)), strict=True):
        if not isinstance(teacher, FinetunedTeacher):
            continue
        teacher = _in_moved_store(teacher, checkpoint)
        folder = Path(getattr(teacher.model, "path", ""))
        if not folder.is_dir():
            continue
        if (problem := _problem_of(teacher, folder, digest)) is not None:
            log.warning("the teacher is left out: %s", problem)
            continue
        found["teacher"] = locate(teacher.model)
    return found


def _in_moved_store(teacher: FinetunedTeacher, checkpoint: Path) -> FinetunedTeacher:
    """The teacher where the store is now: beside the checkpoint, if it is no longer where it was made."""
    was = Path(getattr(teacher.model, "path", ""))
    now = checkpoint.parent / was.parent.name / was.name
    if was.is_dir() or not now.is_dir():
        return teacher
    return teacher.model_copy(update={"model": FolderModel(path=str(now))})


def _digests_of_teachers(manifest: Manifest, number: int) -> list[str | None]:
    """What each teacher was when the student learned from it; None where it was noted in another version's way."""
    identity = manifest.identity
    noted = identity.get("teacher") if identity.get("numerics") == NUMERICS_VERSION else None
    members = noted.get("members") if isinstance(noted, dict) else [noted]
    return members if isinstance(members, list) and len(members) == number else [None] * number


def _problem_of(teacher: FinetunedTeacher, folder: Path, digest: str | None) -> str | None:
    """Why a teacher's folder is not what the student learned from; None where nothing speaks against it."""
    another = f"{folder} holds another model than the one that the student learned from"
    is_checkpoint = (folder.parent / MANIFEST).is_file()
    try:
        if is_checkpoint or teacher.stage_digest is not None:
            _, manifest = open_checkpoint(folder if is_checkpoint else folder.parent)
            return None if teacher.stage_digest in (None, manifest.digest) else another
        return None if digest in (None, model_digest(teacher.model)) else another
    except (CheckpointError, DataError) as error:
        return str(error)


def _scored(name: str, folder: Path, metric: MetricName, rows: TaskRows, scorers: dict[str, AnyScorer]) -> Scored:
    head = kind_of(rows.problem).head
    model = head.load(folder)
    head.match_labels(model, rows.labels, folder)
    answers = {split: scorer.answers_of(model) for split, scorer in scorers.items()}
    main = scorers["validation"]
    return Scored(
        name=name,
        scores=main.scores(metric, answers["validation"]),
        unseen_scores=main.unseen_scores(metric, answers["validation"]),
        further={split: scorers[split].scores(metric, answers[split]) for split in scorers if split != "validation"},
    )


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
            TableRow((title, *(_with_interval(part_scores.get(name)) for name in first)))
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


def _with_interval(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{percent(score.value)} ({percent(score.low)} to {percent(score.high)})"
