"""A stage's digest: what it is, so that the same stage is never paid for twice.

It covers the stage's config, its parent's digest, the teacher's and the pretrained model's files, the data's content
and a version of the numerics. It leaves out paths, how often something is logged, and the hardware.
"""

from __future__ import annotations

from typing import Any

from schemas.base import digest_of
from schemas.data import Data, GeneralCorpus, TaskDataset
from schemas.refs import FolderModel, HubModel, PackageModel
from schemas.stage import StageConfig
from schemas.teacher import FinetunedTeacher
from stages.encoders import folder_digest, locate
from stages.sources import corpus_digest, task_digest

NUMERICS_VERSION = 1
"""Raise by hand when a change moves a loss curve; every stage made before is then made anew."""


def data_digest(data: Data) -> str:
    """Digest of the text a stage reads, from files' content rather than their names."""
    match data:
        case GeneralCorpus():
            return corpus_digest(data)
        case TaskDataset():
            return task_digest(data.task)


def model_digest(model: FolderModel | HubModel | PackageModel) -> str:
    """Digest of a model's weights, config and tokenizer."""
    return folder_digest(locate(model))


def stage_digest(config: StageConfig, parent_digest: str | None) -> str:
    """The digest under which a stage's result is kept.

    Args:
        config: the stage as it is run.
        parent_digest: digest of the checkpoint it goes on from; None for a fresh start.
    """
    covered: dict[str, Any] = config.model_dump(
        mode="json", exclude={"teacher", "pretrained", "data"}
    )
    teacher = config.teacher
    if teacher is None:
        covered["teacher"] = None
    elif isinstance(teacher, FinetunedTeacher) and teacher.stage_digest is not None:
        covered["teacher"] = teacher.stage_digest
    else:
        covered["teacher"] = model_digest(teacher.model)
    covered["pretrained"] = model_digest(config.pretrained)
    covered["data"] = data_digest(config.data)
    covered["parent"] = parent_digest
    covered["numerics"] = NUMERICS_VERSION
    return digest_of(covered)
