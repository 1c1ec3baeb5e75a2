"""The safetensors files of a model: what they hold, and whether it is of the sizes that its config names."""

from __future__ import annotations

import copy
import glob
import json
import re
import shlex
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from schemas.core.errors import DataError

# While it loads, transformers turns the tying of weights off for the whole process; of two threads that load at once,
# the one that ends last leaves it off.
LOADING = threading.Lock()
"""Held while a model is loaded, and while weights are tied."""

_SHOWN = 3
_HEADS = ("classifier", "score", "qa_outputs", "out_proj")
_SIZES = ("hidden_size", "intermediate_size", "embedding_size", "num_labels")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps transformers from printing which weights are fresh: that is ours to say."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def check_weights(auto: Any, folder: Path, config: PretrainedConfig) -> None:
    """Refuse a model whose files hold weights of other sizes, or of another number of blocks, than its config names.

    The model is loaded on the meta device, so that transformers' own renaming of weights counts and nothing is read.

    Args:
        auto: the auto class of transformers that it is to be loaded by.
        folder: the model.
        config: its config.

    Raises:
        DataError: which sizes differ, in which files.
    """
    try:
        with LOADING, without_warnings():
            model, found = auto.from_pretrained(
                folder,
                config=copy.deepcopy(config),
                device_map="meta",
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # each family builds its own model
        raise unloadable(folder, error) from None
    problems = [
        _size_problem(folder, config, name, theirs, ours)
        for name, theirs, ours in sorted(found["mismatched_keys"], key=lambda item: item[0])
    ]
    if not problems:
        problems = _depth_problems(model, folder, found["missing_keys"], found["unexpected_keys"])
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{folder}: weights and config are of different models: {'; '.join(problems[:_SHOWN])}{more}: fetch both "
            "again, or correct config.json"
        )


def unloadable(folder: Path, error: Exception) -> DataError:
    """What to say of a model that transformers does not load."""
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(f"{folder} cannot be loaded as a model: {cause}; check config.json, or fetch the model again")


def _size_problem(folder: Path, config: PretrainedConfig, name: str, theirs: Sequence[int], ours: Sequence[int]) -> str:
    shown = (" x ".join(map(str, sizes)) for sizes in (theirs, ours))
    given, right = shown
    key = _key_of(config, name, theirs, ours)
    return f"{name} is {given} in {_file_of(folder, name)}, but {right} by config.json ({key})"


def _key_of(config: PretrainedConfig, name: str, theirs: Sequence[int], ours: Sequence[int]) -> str:
    """The key of the config that a size comes from, as far as it can be told."""
    if any(part in _HEADS for part in name.split(".")[:2]):
        return f"id2label names {config.num_labels} outputs"
    differing = [mine for mine, their in zip(ours, theirs, strict=False) if mine != their] or list(ours)
    kinds = {"word": "vocab_size", "tok": "vocab_size", "position": "max_position_embeddings"}
    likely = [key for part, key in kinds.items() if part in name and "token_type" not in name]
    keys = (*likely, "type_vocab_size", "vocab_size", *_SIZES, "max_position_embeddings")
    if "token_type" in name:
        keys = ("type_vocab_size", *keys)
    key = next((key for key in keys if getattr(config, key, None) in differing), None)
    return f"{key}: {getattr(config, key)}" if key else f"model_type: {config.model_type}"


def _file_of(folder: Path, name: str) -> str:
    """The file that holds a tensor, under this name or one with or without the encoder's own in front."""
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                keys = tensors.keys()
        except (SafetensorError, OSError):
            continue
        if any(f".{key}".endswith(f".{name}") or f".{name}".endswith(f".{key}") for key in keys):
            return file.name
    return "its .safetensors"


def _depth_problems(
    model: PreTrainedModel, folder: Path, missing: Collection[str], unexpected: Collection[str]
) -> list[str]:
    """Blocks that only one of config and files has; and embeddings that the files have not.

    What else is missing is drawn with a head (a pooler), and what else is left over belongs to another head.
    """
    depth = model.config.num_hidden_layers
    blocks = re.compile(rf"(^|\.)({'|'.join(map(re.escape, _block_lists(model)))})\.(\d+)\.")
    absent = {int(match[3]) for name in missing if (match := blocks.search(name))}
    beyond = {int(match[3]) for name in unexpected if (match := blocks.search(name))}
    if absent:
        there = f"no weights of {len(absent)} of them"
    elif beyond and max(beyond) >= depth:
        there = f"weights of {max(beyond) + 1}"
    else:
        words = sorted(name for name in missing if "embeddings" in name and "weight" in name)
        return [f"there is no {name} in its .safetensors" for name in words]
    return [f"config.json names {depth} blocks (num_hidden_layers), and its .safetensors has {there}"]


def _block_lists(model: PreTrainedModel) -> list[str]:
    """Names, within the encoder, of the lists that have as many modules as there are blocks."""
    encoder = model.base_model
    found = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    return found or ["\0"]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order."""
    return sorted(folder.glob("model*.safetensors"))


def tensor_names(folder: Path) -> set[str]:
    """Names of all tensors in a model folder, read from the files' headers only."""
    names: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                names.update(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is not a safetensors file: {error}; fetch or save the model again") from None
    return names


def conversion_command(folder: Path) -> str:
    """The command that makes safetensors of a folder's pickles; `weights_only` takes tensors and runs nothing."""
    place = str(folder.absolute())
    pattern = json.dumps(f"{glob.escape(place)}/pytorch_model*.bin", ensure_ascii=False)
    target = json.dumps(f"{place}/model.safetensors", ensure_ascii=False)
    code = (
        "import glob, torch; from safetensors.torch import save_file; "
        f"save_file({{k: v.clone().contiguous() for f in glob.glob({pattern}) "
        'for k, v in torch.load(f, map_location="cpu", weights_only=True).items()}, '
        f'{target}, metadata={{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(code)}"
