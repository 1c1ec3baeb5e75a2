"""The choice of the champion: a version that is better by the paired interval, on the same rows.

Every version keeps its answers to the validation rows, beside the digest of these rows. Two versions are compared by
their answers alone, so that the champion's files and checkpoint are not needed, and no model is run twice. Answers to
other rows are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipes.task_argument import task_argument
from schemas.core.base import Frozen, Sha256
from schemas.core.errors import ConfigError
from schemas.core.metrics import MetricName, titled
from schemas.data.stage_data import TaskDataset
from schemas.data.tasks import AnyTask
from schemas.results.export import ExportManifest
from schemas.results.manifest import Manifest
from schemas.results.score import Score
from stages.data.tasks.load import load_task
from stages.evaluation.scorer import AnyScorer
from stages.export.onnx_file import OnnxModel
from stages.export.onnx_model import onnx_logits
from stages.judge import task_scorers
from stages.models.encoders import load_config, load_tokenizer

ANSWERS = "answers.json"
_MOST_ROWS = 1000


class KeptAnswers(Frozen):
    """A version's answers to the validation rows, `answers.json` in its model."""

    metric: MetricName
    """The task's main score."""
    rows: Sha256
    """Digest of the rows with their labels, and of what the score is about."""
    score: Score
    """The score of the answers."""
    answers: list[Any]
    """The answer to each row, in the form of the task's kind."""


@dataclass(frozen=True)
class Judged:
    """A version's answers, with what scores them."""

    scorer: AnyScorer
    answers: Any
    kept: KeptAnswers


@dataclass(frozen=True)
class Decision:
    """The decision about a version, and its reason."""

    is_champion: bool
    reason: str
    difference: Score | None = None
    """Its score minus the champion's, with the paired interval; None where they cannot be compared."""


def judge_export(
    folder: Path, file: str, export: ExportManifest, manifest: Manifest, task: str | None, cache: Path
) -> Judged | str:
    """Have an ONNX file answer the validation rows of its task.

    Args:
        folder: the export.
        file: path of the ONNX file in it.
        export: its manifest.
        manifest: that of its checkpoint.
        task: as of `distill evaluate --task`; None for the task of the checkpoint's training.
        cache: folder of tokenised data.

    Returns:
        The answers; the reason where they have no score.

    Raises:
        ConfigError: no such task, or a checkpoint of several tasks, and none was named.
        DataError: the rows cannot be read.
    """
    chosen = task_argument(task, manifest) if task else _task_of(manifest, folder)
    scorer, answers = read_answers(folder, file, export, chosen, cache)
    metric = chosen.main_metric
    if not scorer.can_score:
        return f"{metric} compares with a teacher's answers, which a version does not have"
    score = scorer.scores(metric, answers)[metric]
    listed = answers.tolist() if isinstance(answers, np.ndarray) else list(answers)
    return Judged(scorer, answers, KeptAnswers(metric=metric, rows=scorer.rows_digest, score=score, answers=listed))


def read_answers(folder: Path, file: str, export: ExportManifest, task: AnyTask, cache: Path) -> tuple[AnyScorer, Any]:
    """Return an ONNX file's answers to validation rows, at most a thousand, and what scores them."""
    rows = load_task(task, cache, droppable=1)
    tokenizer = load_tokenizer(folder, load_config(folder))
    scorers = task_scorers(rows, tokenizer, max_length=export.max_length, cache=cache, max_rows=_MOST_ROWS)
    scorer = scorers["validation"]
    return scorer, scorer.answers(onnx_logits(OnnxModel(folder / file), scorer.rows.tokens, scorer.sequences))


def _task_of(manifest: Manifest, folder: Path) -> AnyTask:
    if not isinstance(manifest.config.data, TaskDataset):
        raise ConfigError(f"{folder} answers several tasks: name one of them with --task")
    return manifest.config.data.task


def decide(judged: Judged | str, version: str, champion: str | None, kept: KeptAnswers | str | None) -> Decision:
    """Return whether a version becomes the champion.

    The first version does. Another does if its score is higher, and so are both ends of the 95 % interval of the
    difference over resampled rows, the same ones for both versions.

    Args:
        judged: the version's answers; the reason where it has none.
        version: its number.
        champion: number of the present champion; None without one.
        kept: the champion's answers, or the reason why there are none; None without a champion.
    """
    if champion is None:
        return Decision(True, f"version {version} is the champion, since there was none")
    if champion == version:
        return Decision(True, f"version {version} is the champion already")
    stays = f"version {champion} stays the champion: version {version} is not compared with it, since"
    if isinstance(judged, str):
        return Decision(False, f"{stays} {judged}")
    if not isinstance(kept, KeptAnswers):
        return Decision(False, f"{stays} {kept}")
    if kept.metric != judged.kept.metric:
        return Decision(False, f"{stays} it was scored by {judged.kept.metric}, and the champion by {kept.metric}")
    if kept.rows != judged.kept.rows:
        return Decision(False, f"{stays} the champion was scored on other rows, or with other labels")
    answers = _like(judged.answers, kept.answers)
    if answers is None:
        return Decision(False, f"{stays} the champion's {ANSWERS} does not fit the rows")
    return _compared(judged, version, champion, answers)


def _compared(judged: Judged, version: str, champion: str, answers: Any) -> Decision:
    metric = judged.kept.metric
    difference = judged.scorer.difference(metric, judged.answers, answers)
    bounds = f"95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    rows = f"on the same {judged.scorer.counted[0]:,} rows"
    points = f"{100 * difference.value:+.1f} points of {titled(metric, difference.of)} ({bounds}, {rows})"
    if difference.value > 0 and difference.low > 0:
        return Decision(True, f"version {version} is the champion now: {points} against version {champion}", difference)
    verdict = f"version {version} has {points} against it, which is not clearly better"
    return Decision(False, f"version {champion} stays the champion: {verdict}", difference)


def _like(answers: Any, kept: list[Any]) -> Any | None:
    """Return kept answers in the form of others to the same rows; None where they do not fit."""
    if len(kept) != len(answers):
        return None
    if not isinstance(answers, np.ndarray):
        return kept
    try:
        array = np.asarray(kept, dtype=answers.dtype)
    except (TypeError, ValueError):
        return None
    return array if array.shape == answers.shape else None
