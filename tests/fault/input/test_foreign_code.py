"""Nothing in a folder that is read is executed: no pickle, model code or script."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertGenerationConfig

from pipeline.store.checkpoints import open_store, verify
from schemas.core.errors import CheckpointError, ConfigError, DataError
from schemas.core.kinds import Classification
from schemas.core.refs import FolderModel
from schemas.loading.load import load_recipe
from schemas.recipe.recipe import Recipe
from stages.data.readers.files import read_file
from stages.data.readers.hub import load_repository
from stages.kinds.registry import kind_of
from stages.models.encoders import load_config, load_encoder, load_tokenizer, locate
from stages.models.masked_lm import has_word_head
from stages.models.tensors import read_tensors
from stages.ports.protocols import TrainingState
from stages.storage.sealed_folder import MANIFEST_SEAL, measure, seal_of
from tests.support.builders import tiny_tokenizer
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.toys import random_model, toy_recipe_dict, toy_teacher

EVIL = "raise SystemExit(open({canary!r}, 'w').close())\nclass C: ...\nM = T = C\n"


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Path that must not exist at the end of a test."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "it was executed"


@pytest.fixture
def payload(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


@pytest.fixture(autouse=True)
def questions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Prompts at the terminal; there must be none at the end of a test."""
    asked: list[str] = []

    def note(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr(builtins, "input", note)
    yield asked
    assert not asked


def _load(folder: Path) -> None:
    """Load everything that is read from a model folder."""
    load_tokenizer(folder, load_config(folder))
    load_encoder(folder)


def test_payload_executes_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "raw")))
    torch.save(Payload(tmp_path / "zipped"), tmp_path / "pytorch_model.bin")
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "raw").exists()
    assert (tmp_path / "zipped").exists()


def test_pickles_beside_a_model_are_not_read(tmp_path: Path, canary: Path, payload: bytes) -> None:
    folder = toy_teacher(tmp_path / "model", labels=("bad", "good"))
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "vocab.pkl",
        "tokenizer.model",
        "tokenizer.pkl",
        "spiece.model",
        "model.pt",
        "model.ckpt",
        "tf_model.h5",
        "flax_model.msgpack",
        "adapter_model.bin",
        "preprocessor_config.pkl",
    ):
        (folder / name).write_bytes(payload)
    torch.save(Payload(canary), folder / "pytorch_model.bin")
    assert locate(FolderModel(path=str(folder))) == folder
    _load(folder)
    kind_of(Classification()).head.load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_pickle_named_like_a_file_that_is_read_is_refused(tmp_path: Path, payload: bytes, file: str) -> None:
    folder = toy_teacher(tmp_path / "model")
    (folder / file).write_bytes(payload)
    with pytest.raises(DataError) as refused:
        _load(folder)
    assert str(folder) in str(refused.value)


def test_folder_with_only_a_pickle_is_refused_with_a_conversion_command(tmp_path: Path, canary: Path) -> None:
    folder = toy_teacher(tmp_path / "a [model]'s folder")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tied = dict(weights, tied=weights["embeddings.word_embeddings.weight"])
    torch.save(tied, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle") as refused:
        locate(FolderModel(path=str(folder)))
    command = str(refused.value).partition("running none: ")[2].removesuffix(")")

    def convert() -> int:
        return subprocess.run(
            ["bash", "-c", command],
            check=False,
            capture_output=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        ).returncode

    assert convert() == 0
    assert locate(FolderModel(path=str(folder))) == folder
    converted = load_file(folder / "model.safetensors")
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
    load_encoder(folder)
    # The command itself runs nothing either.
    (folder / "model.safetensors").unlink()
    torch.save(Payload(canary), folder / "pytorch_model.bin")
    assert convert() != 0


@pytest.mark.parametrize(
    "name",
    [
        "x.pkl",
        "x.pickle",
        "x.bin",
        "x.pt",
        "x.npy",
        "x.py",
        "x.tar",
        "x.arrow",
        "x.jsonl",
        "x.json",
        "x.csv",
        "x.tsv",
        "x.txt",
        "x.parquet",
        "x.jsonl.gz",
        "x.txt.gz",
    ],
)
def test_a_pickle_as_a_data_file_is_refused(tmp_path: Path, payload: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(payload) if name.endswith(".gz") else payload)
    with pytest.raises(DataError, match="x"):
        read_file(path, tmp_path / "cache", "task.train")


def test_pickles_in_the_cache_of_data_are_not_executed(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n', encoding="utf-8")
    assert read_file(path, tmp_path / "cache", "task.train").rows["text"][:] == ["a"]
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert any(file.suffix == ".arrow" for file in kept)
    for file in kept:
        file.write_bytes(payload)
    assert read_file(path, tmp_path / "cache", "task.train").rows["text"][:] == ["a"]  # made anew


def test_a_script_in_a_data_set_is_not_executed(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(EVIL.format(canary=str(canary)), encoding="utf-8")
    (folder / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        load_repository(str(folder), None, "train", "task")


def test_pickles_in_the_store_are_detected_or_refused(tmp_path: Path, payload: bytes) -> None:
    store = open_store(tmp_path / "store")
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    (folder / "model" / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not in its manifest"):
        verify(folder)
    (folder / "model" / "pytorch_model.bin").unlink()
    # An attacker with write access can adapt the manifest; weights must still be safetensors.
    (folder / "projections.safetensors").write_bytes(payload)
    (folder / "manifest.json").unlink()
    (folder / MANIFEST_SEAL).unlink()
    text = manifest_of(files=measure(folder)).model_dump_json().encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / MANIFEST_SEAL).write_text(seal_of(text))
    verify(folder)
    with pytest.raises(Exception, match=r"[Hh]eader|safetensors"):
        read_tensors(folder / "projections.safetensors")
    states = store.states("general", DIGEST)
    states.save(TrainingState(step=1, tensors={"a": torch.zeros(2)}, numbers={}))
    (states.folder / "step-00000001" / "state.safetensors").write_bytes(payload)
    assert states.latest() is None


def _with_code(folder: Path, canary: Path, **changes: Any) -> Path:
    """A model folder that requests execution of its own module."""
    (folder / "evil.py").write_text(EVIL.format(canary=str(canary)), encoding="utf-8")
    for name, additions in (("config.json", changes), ("tokenizer_config.json", {})):
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        classes = {
            f"Auto{kind}": "evil.M"
            for kind in ("Config", "Model", "ModelForMaskedLM", "ModelForSequenceClassification")
        } | {"AutoTokenizer": ["evil.T", "evil.T"]}
        changed = config | {"auto_map": classes} | additions
        (folder / name).write_text(json.dumps(changed), encoding="utf-8")
    return folder


def test_code_in_a_model_folder_of_a_known_family_is_not_run(tmp_path: Path, canary: Path) -> None:
    folder = _with_code(toy_teacher(tmp_path / "model"), canary, attn_implementation="example/kernel")
    config = load_config(folder)
    load_tokenizer(folder, config)
    load_encoder(folder)
    assert not has_word_head(folder)
    assert "auto_map" not in config.to_dict()  # nor does a student inherit it


def test_missing_class_of_a_family_does_not_prompt_for_foreign_code(tmp_path: Path, canary: Path) -> None:
    config = BertGenerationConfig(
        vocab_size=len(tiny_tokenizer()), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    folder = _with_code(random_model(tmp_path / "model", config, None), canary)
    assert type(load_config(folder)) not in AutoModelForMaskedLM._model_mapping
    assert not has_word_head(folder)


@pytest.mark.parametrize("variable", ["TRUST_REMOTE_CODE", "HF_DATASETS_TRUST_REMOTE_CODE"])
def test_family_that_needs_foreign_code_is_refused(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    folder = _with_code(toy_teacher(tmp_path / "model"), canary, model_type="evil")
    with pytest.raises(DataError, match="code from its own folder, which is never run") as refused:
        load_config(folder)
    assert "\n" not in str(refused.value)
    assert "trust_remote_code" not in str(refused.value)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "teacher.",
        "teacher.model.",
        "student.",
        "student.start.",
        "task.",
        "execution.",
        "general_corpus.",
        "general_corpus.sources.0.",
        "stages.general.",
        "evaluation.",
    ],
)
def test_no_recipe_key_enables_foreign_code(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trust_remote_code: unknown key"):
        load_recipe(path, [f"{prefix}trust_remote_code=true"], recipes_folder=None)


def test_the_schema_never_mentions_trust_or_remote_code() -> None:
    text = json.dumps(Recipe.model_json_schema()).lower()
    assert "stages" in text
    assert "trust" not in text
    assert "remote_code" not in text
