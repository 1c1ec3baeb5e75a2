"""Candidates for a teacher: the fine-tuning with the best score wins, and ties go to the first.

Every candidate is an ordinary stage with its own digest. Students are identified by the chosen teacher alone, as if it
had been the only candidate: a further candidate that loses does not change them, and a later run with the winner's
settings, its selection among them, reuses everything. Until all candidates are finished the choice is unknown, and so
are the digests of its students; a joint digest of all candidates, which no checkpoint has, represents the teacher until
then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.store.checkpoints import CheckpointStore
from schemas.core.base import digest_of
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import made_teacher
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import FinetunedTeacher, settings_of
from stages.evaluation.stage_scores import MEAN_SCORE


def score_of(config: StageConfig, metrics: Mapping[str, float]) -> float:
    """Return the score that decides between candidates: that of their selection, which all of them have."""
    return metrics[f"select/best_{metric_of(config)}"]


def metric_of(config: StageConfig) -> str:
    """Return the name of the score that decides."""
    selection = config.training.selection
    main = config.data.task.main_metric if isinstance(config.data, TaskDataset) else MEAN_SCORE
    return main if selection is None or selection.metric is None else selection.metric


def best_of(scores: Sequence[float]) -> int:
    """Return the index of the best score; ties go to the first."""
    return scores.index(max(scores))


def candidate_of(config: StageConfig, group: Sequence[StageConfig]) -> str | None:
    """Return the settings that tell a candidate from the others; None if it is the only one."""
    return settings_of(config.training, [candidate.training for candidate in group]) or None


def expected_teacher(group: Sequence[tuple[StageConfig, str]], store: CheckpointStore) -> tuple[FinetunedTeacher, bool]:
    """Return the teacher among a group of candidates, and whether the choice is final.

    Args:
        group: the candidates with their digests.
        store: has the finished candidates.
    """
    best, joint_digest = 0, None
    if len(group) > 1:
        checkpoints = [store.find(config.name, digest) for config, digest in group]
        manifests = [manifest for _, manifest in filter(None, checkpoints)]
        if len(manifests) == len(group):
            best = best_of([score_of(manifest.config, manifest.metrics) for manifest in manifests])
        else:
            joint_digest = digest_of({"best of": [digest for _, digest in group]})
    config, digest = group[best]
    return made_teacher(config.name, joint_digest or digest), joint_digest is None
