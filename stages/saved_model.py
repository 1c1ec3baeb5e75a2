"""A student's folder as others open it: transformers, sentence-transformers, `tokenizers` alone, another user."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stages.models.sentence_encoder import Model, SentenceEncoder

_LEFTOVERS = (
    "is_local",
    "local_files_only",
    "max_length",
    "pad_to_multiple_of",
    "stride",
    "truncation_side",
    "truncation_strategy",
)
"""Settings that transformers notes while it loads a tokenizer, and would write into the next one's config."""


def save_model(model: Model, tokenizer: PreTrainedTokenizerFast, folder: Path, *, max_length: int) -> None:
    """Write a model and its tokenizer as a transformers folder that other users and programs can read.

    Args:
        model: moved to the CPU.
        tokenizer: the teacher's; the copy that is written pads to the longest text of a batch and cuts at `max_length`.
        folder: is created.
        max_length: tokens of the longest sequence that the model was trained with.
    """
    model.cpu().save_pretrained(folder, safe_serialization=True)
    if isinstance(model, SentenceEncoder):
        model.save_length(folder, max_length)
    _as_trained(tokenizer, max_length).save_pretrained(folder)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(readable())


def _as_trained(tokenizer: PreTrainedTokenizerFast, max_length: int) -> PreTrainedTokenizerFast:
    """Return a copy that cuts and pads as the student's training did, for whoever reads it without transformers.

    A teacher's tokenizer may pad every text to 128 tokens, which makes short ones several times slower.
    """
    own = copy.deepcopy(tokenizer)
    own.model_max_length = max_length
    for name in _LEFTOVERS:
        own.init_kwargs.pop(name, None)
    own.backend_tokenizer.enable_truncation(max_length, direction=tokenizer.truncation_side)
    own.backend_tokenizer.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=str(tokenizer.pad_token),
    )
    return own


def readable() -> int:
    """Return the mode of files that others may read, as far as the process's mask allows; safetensors writes 0600."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o644 & ~mask
