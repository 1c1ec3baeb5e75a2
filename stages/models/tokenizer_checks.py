"""Checks that a model has an embedding for every id and token type of its tokenizer."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from schemas.core.errors import DataError
from schemas.core.wording import printable

_TYPES = "token_type_ids"


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, folder: Path) -> None:
    """Refuse a tokenizer with an id that has no embedding in the model.

    Raises:
        DataError: names the token and the remedy.
    """
    size = config.vocab_size
    ids = dict(tokenizer.get_vocab())
    # Special tokens of the template need not be in the vocabulary.
    ids |= {token: number for number, token in _special_tokens(tokenizer).items() if number not in ids.values()}
    beyond = sorted((number, token) for token, number in ids.items() if number >= size)
    if not beyond:
        return
    number, token = beyond[0]
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    named = f"{printable(token, 40)!r} (id {number}){more}"
    added = set(tokenizer.get_added_vocab())
    if all(name in added for _, name in beyond):
        raise DataError(
            f"{folder}: {named} was added to the tokenizer, but the model has only {size} embeddings; enlarge them "
            f"with model.resize_token_embeddings({beyond[-1][0] + 1}) and save the model, or take the token out of the "
            "tokenizer"
        )
    if len(ids) <= size:
        raise DataError(
            f"{folder}: the vocabulary has {len(ids)} tokens, but its ids have gaps: {named} lies beyond the model's "
            f"{size} embeddings; number the tokens from 0 to {len(ids) - 1}, or enlarge the embeddings with "
            f"model.resize_token_embeddings({beyond[-1][0] + 1})"
        )
    raise DataError(
        f"{folder}: the tokenizer has {len(ids)} tokens but the model only {size} embeddings; "
        "the vocabulary belongs to another model: put both files of the same model into the folder"
    )


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Ids and names of the special tokens around a pair of texts."""
    try:
        pair = tokenizer("a", "a").encodings[0]
    except Exception:  # a damaged template; reported when text is tokenised
        return {}
    return {
        number: token
        for number, token, is_special in zip(pair.ids, pair.tokens, pair.special_tokens_mask, strict=True)
        if is_special
    }


def highest_type(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the highest token type of a pair of texts; 0 if the model gets no token types."""
    if _TYPES not in tokenizer.model_input_names:
        return 0
    try:
        return max(tokenizer("a", "a").encodings[0].type_ids)
    except Exception:  # as above
        return 0


def reads_types(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> bool:
    """Return whether a model has an embedding for every token type; True if it has none and ignores types."""
    number: int = getattr(config, "type_vocab_size", None) or 0
    return not number or highest_type(tokenizer) < number


def leave_types_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the tokenizer return no token types, like RoBERTa's, which marks pairs by separators alone."""
    names = [name for name in tokenizer.model_input_names if name != _TYPES]
    tokenizer.model_input_names = names
