"""Models that predict words: a teacher with its masked-language head, and a student under such a head."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from schemas.core.errors import DataError
from stages.models.encoders import attention_of, load_config, load_pretrained
from stages.models.weights import LOADING, tensor_names


def _head_names(model: PreTrainedModel) -> set[str]:
    """Tensors outside the encoder."""
    prefix = f"{model.base_model_prefix}."
    return {name for name in model.state_dict() if not name.startswith(prefix)}


def has_word_head(folder: Path) -> bool:
    """Whether the folder's weights include a masked-language head."""
    try:
        with torch.device("meta"):
            model = AutoModelForMaskedLM.from_config(load_config(folder))
    except ValueError:  # the family has no such model
        return False
    heads = {name.split(".")[0] for name in _head_names(model)}
    return any(name.split(".")[0] in heads for name in tensor_names(folder))


def load_word_model(folder: Path) -> PreTrainedModel:
    """The encoder with its masked-language head, fp32.

    Raises:
        DataError: the folder has no such head.
    """
    if not has_word_head(folder):
        raise DataError(
            f"teacher model {folder} has no masked-language head (no such weights in its files), but its answers at "
            "masked words are wanted; give the checkpoint that was pretrained on masked words, or use kind: latent"
        )
    return load_pretrained(AutoModelForMaskedLM, folder)


def with_word_head(encoder: PreTrainedModel, teacher_folder: Path, *, seed: int) -> PreTrainedModel:
    """The encoder under a masked-language head: the teacher's tensors where they fit, as DistilBERT's, else fresh.

    Args:
        encoder: the student, which becomes part of the model.
        teacher_folder: the pretrained teacher.
        seed: draws what is fresh.
    """
    config = copy.deepcopy(encoder.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, **attention_of(config))
    # The encoder itself, not its weights: a pooler that the word model would do without stays with it.
    setattr(model, model.base_model_prefix, encoder)
    with LOADING:
        model.tie_weights()
    if has_word_head(teacher_folder):
        theirs = load_word_model(teacher_folder).state_dict()
        own = model.state_dict()
        embeddings = encoder.get_input_embeddings().weight.data_ptr()  # type: ignore[operator]
        fitting = {
            name: theirs[name]
            for name in _head_names(model)
            if own[name].data_ptr() != embeddings  # the tied decoder is the student's own
            and name in theirs
            and theirs[name].shape == own[name].shape
        }
        model.load_state_dict(own | fitting)
    return model
