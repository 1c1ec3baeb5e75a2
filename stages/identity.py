"""A stage's digest, under which its checkpoint is kept and found again, so that no stage is trained twice.

It covers the stage's config, its parent's digest, the files of the teachers and of the pretrained model, the content of
the data, and a version of the numerics; not paths, logging intervals or hardware.

Every kept result has a digest of its inputs and a version in stages/storage/format_versions.py. Raise the version when
a change to the code gives another result from the same inputs:

| result                    | digest                                              | version to raise      |
|---------------------------|-----------------------------------------------------|-----------------------|
| checkpoint of a stage     | `stage_digest` (below), `digest_of(identity)`       | NUMERICS_VERSION      |
| judgement of a checkpoint | `stages.judge.Yardstick.digest`                     | EVALUATION_VERSION    |
| outputs of a teacher      | `training.teacher_cache.TeacherCache.digest`        | CACHE_VERSION         |
| export in the cache       | `pipeline.shipping.forms.export_of`                 | EXPORT_VERSION        |
| model folder              | `models.encoders.folder_digest`, `weights_digest`   | none: files alone     |
| data of a stage           | `data_digest` (below), which calls the next ones    |                       |
| rows of a task            | `data.tasks.load.task_digest`                       | ROWS_VERSION          |
| rows of a corpus          | `data.corpus.digests.corpus_digest`                 | CORPUS_VERSION        |
| corpus cut by sentences   | `data.corpus.digests.splitting`                     | SENTENCES_VERSION     |
| augmented rows            | `augmentation.rows.augmentation_digest`             | AUGMENTATION_VERSION  |
| paragraphs of docstrings  | `data.readers.docstrings.docstring_digest`          | EXTRACTION_VERSION    |
| rows of a docstring task  | `data.readers.docstrings.docstring_task_digest`     | TASK_VERSION          |
| rows of a file            | `data.readers.files.file_identity`                  | READING_VERSION       |
| sample of a hub data set  | `data.readers.hub_sample`                           | SAMPLE_VERSION        |
| sequences of a task       | `data.tasks.tokenize`                               | TOKENS_VERSION        |
| sequences of a corpus     | `data.corpus.tokenize`                              | CORPUS_TOKENS_VERSION |
| data card                 | `preflight.data_card`                               | CARD_VERSION          |

ROWS_, CORPUS_, SENTENCES_, AUGMENTATION_, EXTRACTION_, TASK_ and READING_VERSION are part of `data_digest` and thereby
of the stage's digest. TOKENS_ and CORPUS_TOKENS_VERSION are not: raise NUMERICS_VERSION with them if training changes.
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
from schemas.recipe.teacher import Committee, FinetunedTeacher, PretrainedTeacher, StageModel
from stages.augmentation.rows import augmentation_digest
from stages.data.corpus.digests import corpus_digest
from stages.data.readers.first_reading import as_it_is_now, still_there
from stages.data.tasks.load import task_digest
from stages.models.encoders import folder_digest, locate
from stages.storage.format_versions import NUMERICS_VERSION


def data_digest(data: Data, pretrained: AnyModel) -> str:
    """Return the digest of a stage's data, from the files' content rather than their names.

    Args:
        data: the stage's data.
        pretrained: the model that proposes words for augmented rows.
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


def model_digest(model: AnyModel | StageModel) -> str:
    """Return the digest of a model's weights, config and tokenizer."""
    with still_there():
        return folder_digest(locate(model))


def stage_digest(config: StageConfig, parent_digest: str | None) -> str:
    """Return the digest under which a stage's checkpoint is kept.

    Args:
        config: the stage, with every setting resolved.
        parent_digest: digest of the checkpoint that it continues from; None for a fresh start.
    """
    return digest_of(stage_identity(config, parent_digest))


def stage_identity(config: StageConfig, parent_digest: str | None) -> dict[str, Any]:
    """Return everything that a stage's digest covers; kept in its manifest, so that a change can be named later."""
    covered: dict[str, Any] = config.model_dump(mode="json", exclude={"teacher", "pretrained", "data", "start_text"})
    if config.training.selection is None:
        # The setting is newer than the first stores, whose stages are still found.
        del covered["training"]["selection"]
    if config.start_text is not None and parent_digest is None:
        covered["start_text"] = corpus_digest(config.start_text)
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
    "start_text": "the text that its start is chosen on",
}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the parts that differ between two identities of one stage."""
    return [name for part, name in _NAMES.items() if before.get(part) != now.get(part)]


def changed_since(identity: Mapping[str, Any], config: StageConfig, parent_digest: str | None) -> str | None:
    """Describe which of a stage's inputs have changed on disk; None if none has."""
    try:
        with as_it_is_now():
            changed = differences(identity, stage_identity(config, parent_digest))
    except (DistillError, OSError) as error:
        return f"its inputs can no longer be read ({error})"
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
    """Digest of the fine-tuning that makes the teacher, which is known before the teacher exists, or of its files."""
    if isinstance(teacher, FinetunedTeacher) and teacher.stage_digest is not None:
        return teacher.stage_digest
    return model_digest(teacher.model)
