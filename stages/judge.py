"""The common yardstick, put to one checkpoint after another: probe, latent loss, and the head's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from schemas.core.base import digest_of
from schemas.core.kinds import Classification, TaskKind
from schemas.core.metrics import MetricName
from schemas.recipe.objective import LatentObjective
from schemas.recipe.parts import Evaluation
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import TEACHER_NAMES
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import CheckpointRef, Judgement, Score
from stages.build import PROJECTIONS
from stages.data.batching.tokens import Tokens
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.load import load_task, task_digest
from stages.data.tasks.stratified import drawn_from
from stages.data.tasks.tokenize import tokenize_split, tokenize_task
from stages.evaluation.bag_of_words import bag_of_words
from stages.evaluation.probe import probe, probe_rows
from stages.evaluation.read_models import EVALUATION_VERSION, answers_of, held_out_losses, read_rows
from stages.models.encoders import folder_digest, load_config, load_encoder, load_tokenizer, locate
from stages.models.heads import check_outputs, load_with_head
from stages.models.sentence_encoder import Model
from stages.models.tensors import read_tensors
from stages.objective.objective import ObjectiveTerms
from stages.scores.scorer import Scorer
from stages.scores.scorers import VectorScorer, scorer_of


@dataclass(frozen=True)
class Yardstick:
    """What every checkpoint of a run is measured with."""

    evaluation: Evaluation
    latent: LatentObjective | None
    teacher: Model
    """The last teacher of the run: fine-tuned where there is one."""
    teacher_digest: str
    data_digest: str
    held_out: Tokens
    """Validation sequences of the task, or held-out text of the corpus where there is no task."""
    metric: MetricName
    has_head: bool
    """Whether the teacher was fine-tuned and answers."""
    train: Tokens | None = None
    """Labelled sequences for the probe; None without a task."""
    scorer: Scorer | None = None
    """Scores answers to the validation rows; None without a task."""
    further: Mapping[str, Scorer] = field(default_factory=dict)
    """Scores answers to further validation rows, by their name."""

    @property
    def problem(self) -> TaskKind | None:
        """The task's kind; None without a task."""
        return None if self.scorer is None else self.scorer.task.problem

    @cached_property
    def teacher_answers(self) -> Any:
        """What the fine-tuned teacher says about the validation rows; None without one.

        Asked when the first checkpoint is judged: where all are judged already, there is nothing to ask it for.
        """
        if not self.has_head or self.scorer is None:
            return None
        answers = answers_of(self.teacher, self.scorer)
        if isinstance(self.scorer, VectorScorer):
            self.scorer.teacher = answers
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
    if recipe.task is None:
        assert recipe.general_corpus is not None
        corpus = recipe.general_corpus
        _, held_out = tokenize_corpus(load_corpus(corpus, cache), tokenizer, max_length=corpus.max_length, cache=cache)
        return Yardstick(
            recipe.evaluation,
            recipe.latent_objective(),
            load_encoder(folder),
            folder_digest(folder),
            corpus_digest(corpus),
            held_out,
            "accuracy",
            has_head=False,
        )
    task = load_task(recipe.task, cache, droppable=recipe.limits.dropped)
    max_length = recipe.task.max_length
    train, held_out = tokenize_task(task, tokenizer, max_length=max_length, cache=cache)
    teacher: Model = load_encoder(folder)
    if fine_tuned:
        teacher = load_with_head(teacher_folder, task.problem)
        check_outputs(teacher, task.problem, task.labels, teacher_folder)

    def scorer(split: str, tokens: Tokens) -> Scorer:
        rows = drawn_from(task.split(split), task.problem, recipe.evaluation.max_rows)
        return scorer_of(task, split, tokens, rows)

    further = {
        name: scorer(name, tokenize_split(task, name, tokenizer, max_length=max_length, cache=cache))
        for name in task.more
    }
    # The tokenizer is the pretrained teacher's, whichever model is judged.
    data = digest_of({"task": task_digest(recipe.task), "tokenizer": folder_digest(folder)})
    return Yardstick(
        recipe.evaluation,
        recipe.latent_objective(),
        teacher,
        folder_digest(teacher_folder),
        data,
        held_out,
        recipe.task.main_metric,
        fine_tuned is not None,
        train,
        scorer("validation", held_out),
        further,
    )


def judge_checkpoint(checkpoint: CheckpointRef, labels: tuple[str, ...], yardstick: Yardstick) -> Judgement:
    """Scores of a finished stage.

    Args:
        checkpoint: the stage.
        labels: outputs of its head; empty when it has none.
        yardstick: the run's.
    """
    folder = Path(checkpoint.path)
    model: Model
    if labels and yardstick.problem is not None:
        model = load_with_head(folder / "model", yardstick.problem)
    else:
        model = load_encoder(folder / "model")
    file = folder / PROJECTIONS
    latent = _latent_loss(
        model, read_tensors(file) if file.is_file() else {}, yardstick, is_student=checkpoint.stage not in TEACHER_NAMES
    )
    return judge_model(model, yardstick, has_head=bool(labels), latent_loss=latent)


def judge_model(model: Model, yardstick: Yardstick, *, has_head: bool, latent_loss: float | None = None) -> Judgement:
    """Scores of a model in memory."""
    scorer = yardstick.scorer
    if scorer is None or yardstick.train is None:
        return Judgement(latent_loss=latent_loss)
    theirs = yardstick.teacher_answers
    rows = probe_rows(yardstick.train, scorer.task.problem, yardstick.evaluation.probe_train_rows)
    held_out = read_rows(model, scorer.tokens, scorer.sequences)
    probed = None
    if not isinstance(scorer, VectorScorer) or theirs is not None:
        said = probe(model, yardstick.train, rows, scorer, held_out)
        probed = scorer.score(_probe_metric(yardstick), said)
    has_classes = isinstance(scorer.task.problem, Classification)
    found = Judgement(
        probe_accuracy=probed if has_classes else None,
        probe_score=None if has_classes else probed,
        latent_loss=latent_loss,
    )
    if not has_head or held_out.logits is None:
        return found
    answers = scorer.predictions(held_out.logits)
    scores = scorer.scores(yardstick.metric, answers)
    main, accuracy = scores.get(yardstick.metric), scores.get("accuracy")
    seen = int(scorer.in_train.sum())
    return found.model_copy(
        update={
            "task_metric": main.value if main else None,
            "accuracy": accuracy.value if accuracy else None,
            "agreement": None if theirs is None else scorer.agreement(answers, theirs),
            "agreement_guessed": None
            if theirs is None
            else max((scorer.agreement(each, theirs) for each in scorer.constants()), default=None),
            "scores": scores,
            "minus_teacher": None
            if theirs is None or isinstance(scorer, VectorScorer)
            else scorer.difference(yardstick.metric, answers, theirs),
            "unseen_scores": scorer.unseen_scores(yardstick.metric, answers),
            "unseen_rows": len(scorer.in_train) - seen if seen else None,
            "further": _further_scores(model, yardstick),
        }
    )


def _probe_metric(yardstick: Yardstick) -> str:
    return "accuracy" if isinstance(yardstick.problem, Classification) else yardstick.metric


def _further_scores(model: Model, yardstick: Yardstick) -> dict[str, dict[str, Score]]:
    return {
        name: scorer.scores(yardstick.metric, answers_of(model, scorer))
        for name, scorer in yardstick.further.items()
        if not isinstance(scorer, VectorScorer)
    }


def _latent_loss(
    model: Model, projections: dict[str, Tensor], yardstick: Yardstick, *, is_student: bool
) -> float | None:
    """Weighted latent loss against the run's last teacher; None where the projections are of another objective."""
    if yardstick.latent is None or not is_student:
        return None
    objective = ObjectiveTerms(
        yardstick.latent, student=model, teachers=[yardstick.teacher], seed=0, projections=projections
    )
    if not objective.carried_over:
        return None
    losses = held_out_losses(
        model, [yardstick.teacher], objective, yardstick.held_out, max_rows=yardstick.evaluation.latent_rows
    )
    return losses["loss"]


def judge_bag_of_words(yardstick: Yardstick) -> Judgement:
    """Scores of a bag-of-words model on the same rows."""
    scorer = yardstick.scorer
    assert scorer is not None
    if isinstance(scorer, VectorScorer) and yardstick.teacher_answers is None:
        return Judgement()
    scores = scorer.scores(yardstick.metric, bag_of_words(scorer))
    main, accuracy = scores.get(yardstick.metric), scores.get("accuracy")
    return Judgement(
        task_metric=main.value if main else None, accuracy=accuracy.value if accuracy else None, scores=scores
    )


def chance(yardstick: Yardstick) -> dict[str, float]:
    """What guessing gets by each score of the task, its own first: that of the best constant answer.

    Empty without a task, and for vectors, which nobody can guess.
    """
    scorer = yardstick.scorer
    return {} if scorer is None else scorer.all_guessed(yardstick.metric)
