"""The common yardstick, put to one checkpoint after another: probe, latent loss, and the head's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.kinds import TaskKind
from schemas.core.metrics import MetricName
from schemas.recipe.objective import LatentObjective
from schemas.recipe.parts import Evaluation
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import TEACHER_NAMES, StageConfig
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import CheckpointRef, Judgement
from schemas.results.score import Draws, Score
from stages.build import read_projections
from stages.data.batching.tokens import Tokens
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.load import load_task, task_digest
from stages.data.tasks.stratified import drawn_from
from stages.data.tasks.tokenize import tokenize_split
from stages.device.runtime import Runtime, return_freed_memory
from stages.evaluation.baselines import bag_of_words, probe_rows
from stages.evaluation.read_models import held_out_losses
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.models.encoders import folder_digest, load_config, load_encoder, load_tokenizer, locate
from stages.models.read import Read, read_rows
from stages.models.sentence_encoder import Model
from stages.objective.objective import ObjectiveTerms
from stages.start import starting_encoder
from stages.storage.format_versions import EVALUATION_VERSION


@dataclass(frozen=True)
class Yardstick:
    """Models and data that every checkpoint of a run is measured with."""

    evaluation: Evaluation
    latent: LatentObjective | None
    teacher_folder: Path
    """The last teacher of the run: the fine-tuned one, if any."""
    teacher_digest: str
    data_digest: str
    held_out: Tokens
    """Validation sequences of the task; without a task, held-out text of the corpus."""
    metric: MetricName
    has_head: bool
    """True where the teacher was fine-tuned and answers the task."""
    train: Tokens | None = None
    """Labelled sequences for the probe; None without a task."""
    scorer: AnyScorer | None = None
    """Scorer of the validation rows; None without a task."""
    further: Mapping[str, AnyScorer] = field(default_factory=dict)
    """Scorers of further validation rows, by name."""

    @property
    def problem(self) -> TaskKind | None:
        """The task's kind; None without a task."""
        return None if self.scorer is None else self.scorer.rows.task.problem

    # Loaded and computed when the first checkpoint is judged, and not at all where all judgements are kept already.

    @cached_property
    def teacher(self) -> Model:
        """The last teacher of the run, with its head if it was fine-tuned."""
        folder = self.teacher_folder
        if not self.has_head or self.scorer is None:
            return Runtime("fp32").quick(load_encoder(folder))
        head = self.scorer.kind.head
        model: Model = head.load(folder)
        head.match_labels(model, self.scorer.rows.task.labels, folder)
        return Runtime("fp32").quick(model)

    @cached_property
    def teacher_read(self) -> Read | None:
        """Features and answers of the fine-tuned teacher for the validation rows; None without one."""
        if not self.has_head or self.scorer is None:
            return None
        return read_rows(self.teacher, self.scorer.rows.tokens, self.scorer.sequences)

    @cached_property
    def teacher_answers(self) -> Any:
        """Answers of the fine-tuned teacher to the validation rows; None without one."""
        if self.teacher_read is None or self.scorer is None:
            return None
        assert self.teacher_read.logits is not None
        return self.scorer.answers(self.teacher_read.logits)

    def draws(self, scorer: AnyScorer) -> Draws:
        """Return the draws of a model's scores, without any score yet."""
        kind = scorer.kind
        about = {"rows": scorer.rows_digest, "metric": self.metric, "probe": kind.probe_metric}
        if kind.needs_teacher:
            about["teacher"] = self.teacher_digest
        return Draws(rows=digest_of(about), count=scorer.counted[0])

    def digest(self, checkpoint_digest: str) -> str:
        """Return the digest under which a judgement of the checkpoint is kept."""
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
    """Return the yardstick of a recipe's run."""
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
            folder,
            folder_digest(folder),
            corpus_digest(corpus),
            held_out,
            "accuracy",
            has_head=False,
        )
    task = load_task(recipe.task, cache, droppable=recipe.limits.dropped)
    max_length = recipe.task.max_length
    train = tokenize_split(task, "train", tokenizer, max_length=max_length, cache=cache)
    scorers = task_scorers(task, tokenizer, max_length=max_length, cache=cache, max_rows=recipe.evaluation.max_rows)
    scorer = scorers.pop("validation")
    # The tokenizer is the pretrained teacher's, whichever model is judged.
    data = digest_of({"task": task_digest(recipe.task), "tokenizer": folder_digest(folder)})
    return Yardstick(
        recipe.evaluation,
        recipe.latent_objective(),
        teacher_folder,
        folder_digest(teacher_folder),
        data,
        scorer.rows.tokens,
        recipe.task.main_metric,
        fine_tuned is not None,
        train,
        scorer,
        scorers,
    )


def task_scorers(
    task: TaskRows, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path, max_rows: int | None = None
) -> dict[str, AnyScorer]:
    """Return the scorers of a task's validation rows and of its further validation rows, by the split's name.

    Args:
        task: the rows.
        tokenizer: splits their texts.
        max_length: longest sequence in tokens.
        cache: folder that keeps tokens.
        max_rows: most rows of a split that are scored, drawn by class; None for all.
    """

    def scorer(split: str) -> AnyScorer:
        tokens = tokenize_split(task, split, tokenizer, max_length=max_length, cache=cache)
        rows = task.split(split)
        chosen = np.arange(len(rows)) if max_rows is None else drawn_from(rows, task.problem, max_rows)
        return scorer_of(task, split, tokens, chosen)

    return {split: scorer(split) for split in ("validation", *task.more)}


def judge_checkpoint(checkpoint: CheckpointRef, labels: tuple[str, ...], yardstick: Yardstick) -> Judgement:
    """Return the scores of a finished stage.

    Args:
        checkpoint: the stage's checkpoint.
        labels: names of its head's outputs; empty without a head.
        yardstick: the yardstick of the run.
    """
    folder = Path(checkpoint.path)
    model: Model
    is_student = checkpoint.stage not in TEACHER_NAMES
    if labels and yardstick.has_head and not is_student and folder / "model" == yardstick.teacher_folder:
        return judge_model(yardstick.teacher, yardstick, has_head=True)
    if labels and yardstick.problem is not None:
        model = kind_of(yardstick.problem).head.load(folder / "model")
    else:
        model = load_encoder(folder / "model")
    model = Runtime("fp32").quick(model)
    latent = _latent_loss(model, read_projections(folder), yardstick, is_student=is_student)
    return judge_model(model, yardstick, has_head=bool(labels), latent_loss=latent)


def judge_model(model: Model, yardstick: Yardstick, *, has_head: bool, latent_loss: float | None = None) -> Judgement:
    """Return the scores of a model in memory."""
    if yardstick.scorer is None or yardstick.train is None:
        return Judgement(latent_loss=latent_loss)
    teacher = yardstick.teacher_answers
    scorer = yardstick.scorer.with_teacher(teacher)
    kind = scorer.kind
    read = None if teacher is None or model is not yardstick.teacher else yardstick.teacher_read
    read = read or read_rows(model, scorer.rows.tokens, scorer.sequences)
    return_freed_memory()  # batches are eight times as large as a step's
    probed, draws = None, yardstick.draws(scorer)
    if scorer.can_score:
        chosen = probe_rows(yardstick.train, kind.config, yardstick.evaluation.probe_train_rows)
        answers = kind.probe(model, yardstick.train, chosen, scorer.rows, read)
        probed = scorer.score(kind.probe_metric or yardstick.metric, answers)
        draws = draws.model_copy(update={"probe": _draws(scorer, kind.probe_metric or yardstick.metric, answers)})
    judgement = Judgement(
        probe_accuracy=probed if kind.probe_metric == "accuracy" else None,
        probe_score=None if kind.probe_metric == "accuracy" else probed,
        latent_loss=latent_loss,
        draws=draws,
    )
    if not has_head or read.logits is None:
        return judgement
    answers = scorer.answers(read.logits)
    if scorer.can_score:
        draws = draws.model_copy(update={"task": _draws(scorer, yardstick.metric, answers)})
    return judgement.model_copy(
        update={
            "draws": draws,
            **head_scores(model, answers, scorer, yardstick.further, yardstick.metric),
            "agreement": None if teacher is None else scorer.agreement(answers, teacher),
            "agreement_guessed": None if teacher is None else scorer.guessed_agreement(teacher),
            "minus_teacher": None
            if teacher is None or kind.needs_teacher
            else scorer.difference(yardstick.metric, answers, teacher),
        }
    )


def judge_start(config: StageConfig, yardstick: Yardstick, cache: Path) -> Judgement:
    """Return the scores of a student before its first stage, made again from the stage's config.

    It has no head and no projections yet, so that only its probe is measured.
    """
    return judge_model(Runtime("fp32").quick(starting_encoder(config, cache)), yardstick, has_head=False)


def _draws(scorer: AnyScorer, metric: MetricName, answers: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in scorer.draws(metric, answers))


def head_scores(
    model: Model, answers: Any, scorer: AnyScorer, further: Mapping[str, AnyScorer], metric: MetricName
) -> dict[str, Any]:
    """Return the fields of a judgement that a model's own head decides, whatever its teacher answers.

    Args:
        model: the model.
        answers: its answers to the validation rows.
        scorer: scores them.
        further: scorers of further validation rows, by their name.
        metric: the task's main score.
    """
    seen = int(scorer.in_train.sum())
    return {
        **_main_scores(scorer.scores(metric, answers), metric),
        "unseen_scores": scorer.unseen_scores(metric, answers),
        "unseen_rows": len(scorer.in_train) - seen if seen else None,
        "further": {
            name: other.scores(metric, other.answers_of(model)) for name, other in further.items() if other.can_score
        },
    }


def _main_scores(scores: dict[str, Score], metric: MetricName) -> dict[str, Any]:
    """Return the fields of a judgement that all scores decide."""
    main, accuracy = scores.get(metric), scores.get("accuracy")
    return {
        "task_metric": main.value if main else None,
        "accuracy": accuracy.value if accuracy else None,
        "scores": scores,
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
    """Return the scores of a bag-of-words model on the same rows, and its difference from the fine-tuned teacher."""
    assert yardstick.scorer is not None
    teacher, metric = yardstick.teacher_answers, yardstick.metric
    scorer = yardstick.scorer.with_teacher(teacher)
    if not scorer.can_score:
        return Judgement()
    answers = bag_of_words(scorer)
    has_teacher = teacher is not None and not scorer.kind.needs_teacher
    return Judgement(
        **_main_scores(scorer.scores(metric, answers), metric),
        minus_teacher=scorer.difference(metric, answers, teacher) if has_teacher else None,
        draws=yardstick.draws(scorer).model_copy(update={"task": _draws(scorer, metric, answers)}),
    )


def judge_pretrained(recipe: Recipe, yardstick: Yardstick) -> Judgement:
    """Return the score of a linear probe on the pretrained model, which fine-tuning has to surpass."""
    return judge_model(Runtime("fp32").quick(load_encoder(locate(recipe.pretrained))), yardstick, has_head=False)


def chance(yardstick: Yardstick) -> dict[str, float]:
    """Return the scores of the best constant prediction (majority baseline), the task's main score first.

    Empty without a task, and for vectors, for which guessing is impossible.
    """
    scorer = yardstick.scorer
    return {} if scorer is None else scorer.all_guessed(yardstick.metric)
