"""The common yardstick, put to one checkpoint after another: probe, latent loss, and the head's answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from schemas.base import digest_of
from schemas.objective import LatentObjective
from schemas.recipe import Evaluation, Recipe
from schemas.results import CheckpointRef, Judgement
from schemas.stage import TEACHER_NAMES
from schemas.teacher import FinetunedTeacher
from stages.corpus import corpus_digest, load_corpus
from stages.encoders import (
    folder_digest,
    load_classifier,
    load_config,
    load_encoder,
    load_tokenizer,
    locate,
)
from stages.evaluation import (
    EVALUATION_VERSION,
    bag_of_words,
    drawn_rows,
    held_out_losses,
    logits_of,
    majority_share,
    probe_accuracy,
    read_rows,
    score,
)
from stages.models import PROJECTIONS
from stages.objectives import ObjectiveTerms
from stages.sources import load_task, task_digest
from stages.tensors import read_tensors
from stages.tokenizing import tokenize_corpus, tokenize_task
from stages.tokens import Tokens


@dataclass(frozen=True)
class Yardstick:
    """What every checkpoint of a run is measured with."""

    evaluation: Evaluation
    latent: LatentObjective | None
    teacher: PreTrainedModel
    """The last teacher of the run: fine-tuned where there is one."""
    teacher_digest: str
    data_digest: str
    held_out: Tokens
    """Validation rows of the task, or held-out text of the corpus where there is no task."""
    rows: np.ndarray
    """Which of them are scored."""
    train: Tokens | None
    """Labelled rows for the probe; None without a task."""
    metric: str
    has_classes: bool
    """Whether the teacher was fine-tuned and answers."""

    @cached_property
    def teacher_answers(self) -> np.ndarray | None:
        """Classes the fine-tuned teacher gives the validation rows; None without one.

        Asked when the first checkpoint is judged: where all are judged already, there is nothing to ask it for.
        """
        if not self.has_classes:
            return None
        answers: np.ndarray = logits_of(self.teacher, self.held_out, self.rows).argmax(-1)
        return answers

    def digest(self, checkpoint_digest: str) -> str:
        """Under which a judgement of the checkpoint is kept."""
        return digest_of(
            {
                "checkpoint": checkpoint_digest,
                "teacher": self.teacher_digest,
                "data": self.data_digest,
                "latent": self.latent.model_dump(mode="json") if self.latent else None,
                "evaluation": self.evaluation.model_dump(mode="json"),
                "metric": self.metric,
                "version": EVALUATION_VERSION,
            }
        )


def make_yardstick(recipe: Recipe, fine_tuned: FinetunedTeacher | None, cache: Path) -> Yardstick:
    """The yardstick of a recipe's run."""
    folder = locate(recipe.pretrained)
    tokenizer = load_tokenizer(folder, load_config(folder))
    teacher_folder = locate(fine_tuned.model) if fine_tuned else folder
    teacher = load_classifier(teacher_folder) if fine_tuned else load_encoder(folder)
    if recipe.task is not None:
        task = load_task(recipe.task, cache)
        train, held_out = tokenize_task(
            task, tokenizer, max_length=recipe.task.max_length, cache=cache
        )
        data_digest, metric = task_digest(recipe.task), recipe.task.metric
    else:
        assert recipe.general_corpus is not None
        corpus = recipe.general_corpus
        _, held_out = tokenize_corpus(
            load_corpus(corpus, cache), tokenizer, max_length=corpus.max_length, cache=cache
        )
        train, data_digest, metric = None, corpus_digest(corpus), "accuracy"
    rows = drawn_rows(len(held_out), recipe.evaluation.max_rows)
    return Yardstick(
        evaluation=recipe.evaluation,
        latent=recipe.latent_objective(),
        teacher=teacher,
        teacher_digest=folder_digest(teacher_folder),
        data_digest=data_digest,
        held_out=held_out,
        rows=rows,
        train=train,
        metric=metric,
        has_classes=fine_tuned is not None,
    )


def judge_checkpoint(
    checkpoint: CheckpointRef, labels: tuple[str, ...], yardstick: Yardstick
) -> Judgement:
    """Scores of a finished stage.

    Args:
        checkpoint: the stage.
        labels: classes of its head; empty when it has none.
        yardstick: the run's.
    """
    folder = Path(checkpoint.path)
    model = load_classifier(folder / "model") if labels else load_encoder(folder / "model")
    file = folder / PROJECTIONS
    latent = _latent_loss(
        model,
        read_tensors(file) if file.is_file() else {},
        yardstick,
        is_student=checkpoint.stage not in TEACHER_NAMES,
    )
    return judge_model(model, yardstick, has_head=bool(labels), latent_loss=latent)


def judge_model(
    model: PreTrainedModel,
    yardstick: Yardstick,
    *,
    has_head: bool,
    latent_loss: float | None = None,
) -> Judgement:
    """Scores of a model in memory."""
    labels = judged_labels(yardstick)
    if labels is None or yardstick.train is None or yardstick.train.labels is None:
        return Judgement(latent_loss=latent_loss)
    rows = drawn_rows(len(yardstick.train), yardstick.evaluation.probe_train_rows)
    train = read_rows(model, yardstick.train, rows)
    held_out = read_rows(model, yardstick.held_out, yardstick.rows)
    probe = probe_accuracy(train, yardstick.train.labels[rows], held_out, labels)
    accuracy = metric = agreement = None
    if has_head and held_out.logits is not None:
        answers = held_out.logits.argmax(-1)
        accuracy = score("accuracy", labels, answers)
        metric = score(yardstick.metric, labels, answers)
        if yardstick.teacher_answers is not None:
            agreement = float((answers == yardstick.teacher_answers).mean())
    return Judgement(
        probe_accuracy=probe,
        latent_loss=latent_loss,
        task_metric=metric,
        accuracy=accuracy,
        agreement=agreement,
    )


def _latent_loss(
    model: PreTrainedModel,
    projections: dict[str, Tensor],
    yardstick: Yardstick,
    *,
    is_student: bool,
) -> float | None:
    """Weighted latent loss against the run's last teacher; None where the projections are of another objective."""
    if yardstick.latent is None or not is_student:
        return None
    objective = ObjectiveTerms(
        yardstick.latent,
        student=model,
        teachers=[yardstick.teacher],
        seed=0,
        projections=projections,
    )
    if not objective.carried_over:
        return None
    losses = held_out_losses(
        model,
        [yardstick.teacher],
        objective,
        yardstick.held_out,
        max_rows=yardstick.evaluation.latent_rows,
    )
    return losses["loss"]


def judge_bag_of_words(recipe: Recipe, cache: Path) -> Judgement:
    """Scores of a bag-of-words classifier on the same rows."""
    assert recipe.task is not None
    scores = bag_of_words(
        load_task(recipe.task, cache), recipe.task.metric, max_rows=recipe.evaluation.max_rows
    )
    return Judgement(
        accuracy=scores["eval/accuracy"], task_metric=scores[f"eval/{recipe.task.metric}"]
    )


def judged_labels(yardstick: Yardstick) -> np.ndarray | None:
    """Right answers of the validation rows that are scored; None without a task."""
    labels = yardstick.held_out.labels
    return None if labels is None else labels[yardstick.rows]


def chance(yardstick: Yardstick) -> float | None:
    """Validation share of the most frequent class; None without a task."""
    labels = judged_labels(yardstick)
    return None if labels is None else majority_share(labels)
