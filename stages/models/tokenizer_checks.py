"""Whether what a tokenizer makes of text is something that its model can read."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from schemas.core.errors import DataError
from schemas.core.wording import printable

_TYPES = "token_type_ids"


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, folder: Path) -> None:
    """Refuse a tokenizer with an id that the model has no embedding for.

    Raises:
        DataError: which token it is, and what to do.
    """
    size = config.vocab_size
    ids = dict(tokenizer.get_vocab())
    # What a template puts around the text need not be in the vocabulary.
    ids |= {token: number for number, token in _around(tokenizer).items() if number not in ids.values()}
    beyond = sorted((number, token) for token, number in ids.items() if number >= size)
    if not beyond:
        return
    number, token = beyond[0]
    more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    named = f"{printable(token, 40)!r} (id {number}){more}"
    added = set(tokenizer.get_added_vocab())
    if all(each in added for _, each in beyond):
        raise DataError(
            f"{folder}: {named} was added to the tokenizer, but the model has only {size} embeddings; enlarge them "
            f"with model.resize_token_embeddings({beyond[-1][0] + 1}) and save the model, or take the token out of the "
            "tokenizer"
        )
    if len(ids) <= size:
        raise DataError(
            f"{folder}: the vocabulary has {len(ids)} tokens, but its ids have holes: {named} lies beyond the model's "
            f"{size} embeddings; number the tokens from 0 to {len(ids) - 1}, or enlarge the embeddings with "
            f"model.resize_token_embeddings({beyond[-1][0] + 1})"
        )
    raise DataError(
        f"{folder}: the tokenizer has {len(ids)} tokens but the model only {size} embeddings; "
        "the vocabulary belongs to another model: put both files of the same model into the folder"
    )


def _around(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """The ids of special tokens in a pair of texts, with their names."""
    try:
        pair = tokenizer("a", "a").encodings[0]
    except Exception:  # a damaged template; said where text is tokenised
        return {}
    return {
        number: token
        for number, token, is_special in zip(pair.ids, pair.tokens, pair.special_tokens_mask, strict=True)
        if is_special
    }


def highest_type(tokenizer: PreTrainedTokenizerFast) -> int:
    """The highest token type that a pair of texts gets; 0 where types are not given to the model."""
    if _TYPES not in tokenizer.model_input_names:
        return 0
    try:
        return max(tokenizer("a", "a").encodings[0].type_ids)
    except Exception:  # as above
        return 0


def reads_types(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> bool:
    """Whether a model has an embedding for every token type; also where it has none at all and leaves types unread."""
    number: int = getattr(config, "type_vocab_size", None) or 0
    return not number or highest_type(tokenizer) < number


def leave_types_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """Have the tokenizer give no token types, as RoBERTa's, whose pairs are told apart by their separators alone."""
    names = [name for name in tokenizer.model_input_names if name != _TYPES]
    tokenizer.model_input_names = names
