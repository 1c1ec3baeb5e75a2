"""Which of several fine-tunings becomes the teacher: the one with the best score; of equals the first.

Each candidate is an ordinary stage with a digest of its own. What a student learns is identified by the chosen one
alone, exactly as if it had been the only one: another learning rate that was tried and lost makes no stage anew, and a
later run that names the winner's settings reuses everything. Before all candidates are there nobody knows which it will
be, so what learns from it cannot be found in the store either; until then the digest of all of them together stands for
it, which no checkpoint has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.store.checkpoints import CheckpointStore
from schemas.core.base import digest_of
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import finished_teacher
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import FinetunedTeacher, settings_of
from stages.evaluation.stage_scores import MEAN_SCORE


def score_of(config: StageConfig, metrics: Mapping[str, float]) -> float:
    """The score that a fine-tuning is chosen by: that of its selection, or its main one on all validation rows."""
    of_what = "eval/" if config.training.selection is None else "select/best_"
    return metrics[f"{of_what}{metric_of(config)}"]


def metric_of(config: StageConfig) -> str:
    """Which score a fine-tuning is chosen by."""
    selection = config.training.selection
    main = config.data.task.main_metric if isinstance(config.data, TaskDataset) else MEAN_SCORE
    return main if selection is None or selection.metric is None else selection.metric


def best_of(scores: Sequence[float]) -> int:
    """Which of the scores is the best; of equals the first."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def candidate_of(config: StageConfig, group: Sequence[StageConfig]) -> str | None:
    """What tells a candidate from the others; None where it is alone."""
    return settings_of(config.training, [each.training for each in group]) or None


def foreseen(group: Sequence[tuple[StageConfig, str]], store: CheckpointStore) -> tuple[FinetunedTeacher, bool]:
    """The teacher of a group of candidates, and whether it is known already.

    Args:
        group: the candidates with their digests.
        store: where they are, as far as they are there.
    """
    best, stand_in = 0, None
    if len(group) > 1:
        found = [store.find(config.name, digest) for config, digest in group]
        there = [manifest for _, manifest in filter(None, found)]
        if len(there) == len(group):
            best = best_of([score_of(each.config, each.metrics) for each in there])
        else:
            stand_in = digest_of({"best of": [digest for _, digest in group]})
    config, digest = group[best]
    folder = str(store.folder(config.name, digest) / "model")
    return finished_teacher(folder, stand_in or digest), stand_in is None
