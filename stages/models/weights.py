"""Checks of a model's safetensors files against its config."""

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

# transformers disables weight tying for the whole process while it loads; two threads that load at the same time may
# leave it disabled.
LOADING = threading.Lock()
"""Held while a model is loaded and while weights are tied."""

_SHOWN = 3
_HEADS = ("classifier", "score", "qa_outputs", "out_proj")
_SIZES = ("hidden_size", "intermediate_size", "embedding_size", "num_labels")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep transformers from printing the names of newly initialised weights."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def check_weights(auto: Any, folder: Path, config: PretrainedConfig) -> None:
    """Refuse a model whose weights differ from its config in sizes or number of blocks.

    Loads on the meta device, so that transformers' renaming of weights applies and no data is read.

    Args:
        auto: transformers' auto class that loads the model.
        folder: the model.
        config: its config.

    Raises:
        DataError: names the differing sizes and the files.
    """
    try:
        with LOADING, without_warnings():
            model, loading = auto.from_pretrained(
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
        _size_problem(folder, config, name, in_file, in_model)
        for name, in_file, in_model in sorted(loading["mismatched_keys"], key=lambda item: item[0])
    ]
    if not problems:
        problems = _depth_problems(model, folder, loading["missing_keys"], loading["unexpected_keys"])
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{folder}: weights and config are of different models: {'; '.join(problems[:_SHOWN])}{more}: download "
            "both again, or correct config.json"
        )


def unloadable(folder: Path, error: Exception) -> DataError:
    """Return the error for a model that transformers cannot load."""
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    return DataError(f"{folder} cannot be loaded as a model: {cause}; check config.json, or download the model again")


def _size_problem(
    folder: Path, config: PretrainedConfig, name: str, in_file: Sequence[int], in_model: Sequence[int]
) -> str:
    actual, expected = (" x ".join(map(str, sizes)) for sizes in (in_file, in_model))
    key = _config_key(config, name, in_file, in_model)
    return f"{name} is {actual} in {_file_of(folder, name)}, but {expected} by config.json ({key})"


def _config_key(config: PretrainedConfig, name: str, in_file: Sequence[int], in_model: Sequence[int]) -> str:
    """Name the config key that a size most likely comes from."""
    if any(part in _HEADS for part in name.split(".")[:2]):
        return f"id2label names {config.num_labels} outputs"
    differing = [size for size, other in zip(in_model, in_file, strict=False) if size != other] or list(in_model)
    kinds = {"word": "vocab_size", "tok": "vocab_size", "position": "max_position_embeddings"}
    likely = [key for part, key in kinds.items() if part in name and "token_type" not in name]
    keys = (*likely, "type_vocab_size", "vocab_size", *_SIZES, "max_position_embeddings")
    if "token_type" in name:
        keys = ("type_vocab_size", *keys)
    key = next((key for key in keys if getattr(config, key, None) in differing), None)
    return f"{key}: {getattr(config, key)}" if key else f"model_type: {config.model_type}"


def _file_of(folder: Path, name: str) -> str:
    """Name of the file that holds a tensor, with or without the encoder's prefix in its name."""
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
    """Describe blocks that only config or files have, and embeddings missing in the files.

    Other missing weights are initialised with a head (a pooler); other unexpected ones belong to another head.
    """
    depth = model.config.num_hidden_layers
    blocks = re.compile(rf"(^|\.)({'|'.join(map(re.escape, _block_lists(model)))})\.(\d+)\.")
    absent = {int(match[3]) for name in missing if (match := blocks.search(name))}
    beyond = {int(match[3]) for name in unexpected if (match := blocks.search(name))}
    if absent:
        weights = f"no weights of {len(absent)} of them"
    elif beyond and max(beyond) >= depth:
        weights = f"weights of {max(beyond) + 1}"
    else:
        words = sorted(name for name in missing if "embeddings" in name and "weight" in name)
        return [f"there is no {name} in its .safetensors" for name in words]
    return [f"config.json names {depth} blocks (num_hidden_layers), and its .safetensors has {weights}"]


def _block_lists(model: PreTrainedModel) -> list[str]:
    """Names of the encoder's module lists that are as long as its number of blocks."""
    encoder = model.base_model
    lists = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    return lists or ["\0"]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, sorted by name."""
    return sorted(folder.glob("model*.safetensors"))


def tensor_names(folder: Path) -> set[str]:
    """Return the names of all tensors in a model folder, from the files' headers."""
    names: set[str] = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                names.update(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} is not a safetensors file: {error}; download or save the model again") from None
    return names


def conversion_command(folder: Path) -> str:
    """Return the command that converts a folder's pickles to safetensors; `weights_only` loads tensors, no code."""
    path = str(folder.absolute())
    pattern = json.dumps(f"{glob.escape(path)}/pytorch_model*.bin", ensure_ascii=False)
    target = json.dumps(f"{path}/model.safetensors", ensure_ascii=False)
    code = (
        "import glob, torch; from safetensors.torch import save_file; "
        f"save_file({{k: v.clone().contiguous() for f in glob.glob({pattern}) "
        'for k, v in torch.load(f, map_location="cpu", weights_only=True).items()}, '
        f'{target}, metadata={{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(code)}"
