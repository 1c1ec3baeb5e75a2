"""The student with which a first stage began, made again from the stage's config."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from schemas.recipe.stage import StageConfig
from stages.build import afresh
from stages.data.batching.tokens import Tokens
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.stage_data import load_data


def starting_encoder(config: StageConfig, cache: Path) -> PreTrainedModel:
    """Return the encoder of a stage that began afresh, as it was before its first step.

    Args:
        config: the stage.
        cache: folder of tokenised data and of measured importance.

    Raises:
        DataError: the text on which a teacher's parts were chosen, or the teacher, cannot be read.
    """
    assert config.student is not None
    folder = locate(config.pretrained)
    tokenizer = load_tokenizer(folder, load_config(folder))
    encoder = afresh(config.student, folder, start_text(config, tokenizer, cache), tokenizer, cache).model
    assert isinstance(encoder, PreTrainedModel)
    return encoder


def start_text(config: StageConfig, tokenizer: PreTrainedTokenizerFast, cache: Path) -> Tokens:
    """Return the sequences on which the importance of the teacher's parts is measured for a stage's student."""
    return load_data(config.start_text or config.data, tokenizer, cache, config.training.selection).train
