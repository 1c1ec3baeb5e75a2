"""Pruning of a vocabulary to the pieces that some texts use, for WordPiece, BPE and Unigram tokenizers.

Those texts keep their pieces. Other texts may be cut into shorter ones: every single character stays, so that nothing
becomes unknown that was known.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from schemas.core.errors import ConfigError
from stages.models.sentence_encoder import Model

_PREFIXES = ("##", "▁", "Ġ")


def used_pieces(tokenizer: PreTrainedTokenizerFast, used: Collection[int]) -> list[int]:
    """Return the ids to keep, ascending: those used, special and added ones, single characters, and parts of merges.

    Args:
        tokenizer: the student's.
        used: ids that occur in the texts.

    Raises:
        ConfigError: the tokenizer is of another kind than WordPiece, BPE or Unigram.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = _pieces(content["model"])
    kept = {number for piece, number in pieces.items() if _is_elementary(piece)}
    kept |= {number for number in used if number in pieces.values()}
    kept |= {entry["id"] for entry in content["added_tokens"]}
    kept |= {number for name, number in _special_ids(content) if number is not None}
    if (unknown := content["model"].get("unk_id")) is not None:
        kept.add(unknown)
    if (unknown := content["model"].get("unk_token")) in pieces:
        kept.add(pieces[unknown])
    if content["model"]["type"] == "BPE":
        kept = _with_parts(kept, content["model"], pieces)
    return sorted(kept)


def prune(model: Model, tokenizer: PreTrainedTokenizerFast, kept: list[int]) -> tuple[Model, PreTrainedTokenizerFast]:
    """Return copies of a model and its tokenizer with some pieces only, numbered anew in their order.

    Args:
        model: its word table loses the other rows.
        tokenizer: its tokenizer.
        kept: ids, ascending, as of `used_pieces`.
    """
    renumbered = {old: new for new, old in enumerate(kept)}
    smaller = copy.deepcopy(model)
    table = smaller.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    padding = table.padding_idx
    rows = nn.Embedding(len(kept), table.embedding_dim, None if padding is None else renumbered.get(padding))
    with torch.no_grad():
        rows.weight.copy_(table.weight[kept])
    encoder: Any = smaller.base_model
    encoder.set_input_embeddings(rows)
    config: Any = smaller.config
    config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        if isinstance(old := getattr(config, name, None), int):
            setattr(config, name, renumbered.get(old))
    own = copy.deepcopy(tokenizer)
    own._tokenizer = Tokenizer.from_str(json.dumps(_renumbered(json.loads(own.backend_tokenizer.to_str()), renumbered)))
    return smaller, own


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    match model["type"]:
        case "WordPiece" | "BPE":
            return dict(model["vocab"])
        case "Unigram":
            return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
        case other:
            raise ConfigError(
                f"--prune-vocabulary knows WordPiece, BPE and Unigram tokenizers, and this one is {other}"
            )


def _is_elementary(piece: str) -> bool:
    """Return whether a piece is a single character, with or without a mark of its place in a word, or a byte."""
    for prefix in _PREFIXES:
        piece = piece.removeprefix(prefix) or prefix
    return len(piece) == 1 or piece in _PREFIXES or (piece.startswith("<0x") and piece.endswith(">"))


def _special_ids(content: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Yield the ids that the tokenizer's post-processor and padding name."""
    for processor in _processors(content.get("post_processor")):
        for name, entry in (processor.get("special_tokens") or {}).items():
            for number in entry["ids"]:
                yield name, number
        for key in ("sep", "cls"):
            if key in processor:
                yield processor[key][0], processor[key][1]
    if content.get("padding"):
        yield "padding", content["padding"]["pad_id"]


def _processors(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    if processor is None:
        return []
    return list(processor["processors"]) if processor["type"] == "Sequence" else [processor]


def _merges(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the left part, the right part and the result of every merge, in their order."""
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right, left + right.removeprefix(prefix)) for left, right in pairs]


def _with_parts(kept: set[int], model: dict[str, Any], pieces: dict[str, int]) -> set[int]:
    """Add the pieces of which merges make the kept ones."""
    made = {result: (left, right) for left, right, result in _merges(model)}
    names = {number: piece for piece, number in pieces.items()}
    waiting = [names[number] for number in kept if number in names]
    while waiting:
        for part in made.get(waiting.pop(), ()):
            if pieces[part] not in kept:
                kept.add(pieces[part])
                waiting.append(part)
    return kept


def _renumbered(content: dict[str, Any], renumbered: dict[int, int]) -> dict[str, Any]:
    """Return the tokenizer's JSON with the kept pieces under their new numbers."""
    model = content["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in renumbered if old < len(model["vocab"])]
        if model.get("unk_id") is not None:
            model["unk_id"] = renumbered[model["unk_id"]]
    else:
        model["vocab"] = {piece: renumbered[old] for piece, old in model["vocab"].items() if old in renumbered}
    if model["type"] == "BPE":
        model["merges"] = [
            list(merge[:2]) for merge in _merges(model) if all(piece in model["vocab"] for piece in merge)
        ]
    for entry in content["added_tokens"]:
        entry["id"] = renumbered[entry["id"]]
    for processor in _processors(content.get("post_processor")):
        for entry in (processor.get("special_tokens") or {}).values():
            entry["ids"] = [renumbered[old] for old in entry["ids"]]
        for key in ("sep", "cls"):
            if key in processor:
                processor[key][1] = renumbered[processor[key][1]]
    if content.get("padding"):
        content["padding"]["pad_id"] = renumbered[content["padding"]["pad_id"]]
    return content
