"""Masked-language models: a teacher with its head, and a student under such a head."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from schemas.core.errors import DataError
from stages.models.encoders import attention_of, load_config, load_pretrained
from stages.models.weights import LOADING, tensor_names


def _head_names(model: PreTrainedModel) -> set[str]:
    """Names of the tensors outside the encoder."""
    prefix = f"{model.base_model_prefix}."
    return {name for name in model.state_dict() if not name.startswith(prefix)}


def has_word_head(folder: Path) -> bool:
    """Return whether the folder's weights include a masked-language head."""
    try:
        with torch.device("meta"):
            model = AutoModelForMaskedLM.from_config(load_config(folder))
    except ValueError:  # the family has no masked-language model
        return False
    heads = {name.split(".")[0] for name in _head_names(model)}
    return any(name.split(".")[0] in heads for name in tensor_names(folder))


def load_word_model(folder: Path) -> PreTrainedModel:
    """Load an encoder with its masked-language head, fp32.

    Raises:
        DataError: the folder has no masked-language head.
    """
    if not has_word_head(folder):
        raise DataError(
            f"teacher model {folder} has no masked-language head (no such weights in its files), but the objective "
            "needs its predictions of masked words; give the pretrained masked-language checkpoint, or use kind: latent"
        )
    return load_pretrained(AutoModelForMaskedLM, folder)


def with_word_head(encoder: PreTrainedModel, teacher_folder: Path, *, seed: int) -> PreTrainedModel:
    """Put the encoder under a masked-language head with the teacher's tensors where they fit, as DistilBERT does.

    Args:
        encoder: the student, which becomes part of the model.
        teacher_folder: the pretrained teacher.
        seed: initialises all other tensors of the head.
    """
    config = copy.deepcopy(encoder.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, **attention_of(config))
    # The encoder itself, not its weights: it keeps a pooler that the masked-language model would drop.
    setattr(model, model.base_model_prefix, encoder)
    with LOADING:
        model.tie_weights()
    if has_word_head(teacher_folder):
        of_teacher = load_word_model(teacher_folder).state_dict()
        of_student = model.state_dict()
        embeddings = encoder.get_input_embeddings().weight.data_ptr()  # type: ignore[operator]
        fitting = {
            name: of_teacher[name]
            for name in _head_names(model)
            if of_student[name].data_ptr() != embeddings  # the tied decoder stays the student's
            and name in of_teacher
            and of_teacher[name].shape == of_student[name].shape
        }
        model.load_state_dict(of_student | fitting)
    return model
