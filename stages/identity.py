"""A stage's digest: what it is, so that the same stage is never paid for twice.

It covers the stage's config, its parent's digest, the teacher's and the pretrained model's files, the data's content
and a version of the numerics. It leaves out paths, how often something is logged, and the hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.core.base import digest_of
from schemas.core.errors import DistillError
from schemas.core.refs import AnyModel
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import Data, TaskDataset, TaskMixture
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ModelStart
from schemas.recipe.teacher import Committee, FinetunedTeacher, PretrainedTeacher
from stages.augmentation.rows import augmentation_digest
from stages.data.corpus.digests import corpus_digest
from stages.data.readers.first_reading import as_it_is_now, still_there
from stages.data.tasks.load import task_digest
from stages.models.encoders import folder_digest, locate

NUMERICS_VERSION = 2
"""Raise by hand when a change moves a loss curve; every stage made before is then made anew."""


def data_digest(data: Data, pretrained: AnyModel) -> str:
    """Digest of the text a stage reads, from files' content rather than their names.

    Args:
        data: what it reads.
        pretrained: the model that says what may replace the words of augmented rows.
    """
    match data:
        case GeneralCorpus():
            return corpus_digest(data)
        case TaskDataset():
            digest = task_digest(data.task)
            if data.augmentation is None:
                return digest
            return augmentation_digest(data.augmentation, locate(pretrained), digest)
        case TaskMixture():
            return digest_of({name: task_digest(task) for name, task in data.tasks.items()})


def model_digest(model: AnyModel) -> str:
    """Digest of a model's weights, config and tokenizer."""
    with still_there():
        return folder_digest(locate(model))


def stage_digest(config: StageConfig, parent_digest: str | None) -> str:
    """The digest under which a stage's result is kept.

    Args:
        config: the stage as it is run.
        parent_digest: digest of the checkpoint it goes on from; None for a fresh start.
    """
    return digest_of(stage_identity(config, parent_digest))


def stage_identity(config: StageConfig, parent_digest: str | None) -> dict[str, Any]:
    """Everything that a stage's digest covers; kept in its manifest, so that a change can be named later."""
    covered: dict[str, Any] = config.model_dump(mode="json", exclude={"teacher", "pretrained", "data"})
    if config.training.selection is None:
        # It was not there at first: stages of that time are still found.
        del covered["training"]["selection"]
    covered["teacher"] = _teacher_identity(config)
    if config.student is not None and isinstance(start := config.student.start, ModelStart):
        covered["student"]["start"]["model"] = model_digest(start.model)
    covered["pretrained"] = model_digest(config.pretrained)
    covered["data"] = data_digest(config.data, config.pretrained)
    covered["parent"] = parent_digest
    covered["numerics"] = NUMERICS_VERSION
    return covered


_NAMES = {
    "data": "its data",
    "pretrained": "the pretrained model",
    "teacher": "its teacher",
    "student": "the model it starts from",
}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two identities of one stage."""
    return [name for part, name in _NAMES.items() if before.get(part) != now.get(part)]


def changed_since(identity: Mapping[str, Any], config: StageConfig, parent_digest: str | None) -> str | None:
    """Which of the files that a stage was made of are others now, in words; None where none is."""
    try:
        with as_it_is_now():
            changed = differences(identity, stage_identity(config, parent_digest))
    except (DistillError, OSError) as error:
        return f"what it was made of can no longer be read ({error})"
    return f"{' and '.join(changed)} changed" if changed else None


def _teacher_identity(config: StageConfig) -> Any:
    teacher = config.teacher
    if teacher is None:
        return None
    if isinstance(teacher, Committee):
        return {
            "members": [_model_identity(member) for member in teacher.members],
            "weights": teacher.weights,
            "weighting": teacher.weighting,
        }
    return _model_identity(teacher)


def _model_identity(teacher: PretrainedTeacher | FinetunedTeacher) -> str:
    """The fine-tuning that makes a teacher stands for it, so that it is known before the teacher is there."""
    if isinstance(teacher, FinetunedTeacher) and teacher.stage_digest is not None:
        return teacher.stage_digest
    return model_digest(teacher.model)
