"""A model folder's digest covers every file that is read, and the table of digests names every version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel

from schemas.core.refs import FolderModel
from stages import identity
from stages.identity import model_digest
from stages.models.encoders import folder_digest
from stages.storage import format_versions
from tests.support.builders import tiny_tokenizer

READ = (
    "config.json model.safetensors tokenizer.json tokenizer_config.json vocab.txt vocab.json merges.txt "
    "added_tokens.json special_tokens_map.json sentencepiece.bpe.model spiece.model spm.model tokenizer.model "
    "bpe.codes entity_vocab.json model.safetensors.index.json 2_Dense/config.json 2_Dense/model.safetensors"
).split()
UNREAD = "README.md training_args.bin optimizer.pt eval_results.json chat_template.jinja".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    BertModel(
        BertConfig(vocab_size=120, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", READ + UNREAD)
def test_the_digest_covers_exactly_the_files_that_loading_reads(name: str, model: Path) -> None:
    file = model / name
    before = file.read_bytes() if file.exists() else None
    file.parent.mkdir(exist_ok=True)
    digests = {folder_digest(model)}
    for content in (b"one", b"two"):
        file.write_bytes(content)
        digests.add(folder_digest(model))
    if before is None:
        file.unlink()
    else:
        file.write_bytes(before)
    assert len(digests) == (3 if name in READ else 1)


def test_different_byte_pairs_change_the_digest(model: Path, tmp_path: Path) -> None:
    digests = set()
    for number, merges in enumerate(([("a", "b")], [("b", "a")])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((model / name).read_bytes())
        letters = {"a": 0, "b": 1, "".join(merges[0]): 2}
        Tokenizer(models.BPE(letters, merges)).model.save(str(folder))
        assert {file.name for file in folder.iterdir()} >= {"vocab.json", "merges.txt"}
        digests.add(model_digest(FolderModel(path=str(folder))))
    assert len(digests) == 2


def test_the_table_of_digests_names_every_version() -> None:
    versions = {name for name in vars(format_versions) if name.endswith("_VERSION")}
    rows = [line for line in (identity.__doc__ or "").splitlines() if line.startswith("|")]
    assert {name for row in rows for name in re.findall(r"\w+_VERSION", row)} == versions
