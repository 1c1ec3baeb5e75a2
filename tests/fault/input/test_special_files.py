"""FIFOs, sockets, devices and links to them are refused immediately wherever a file can be named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipes.shipped import read_recipe
from pipeline.store.checkpoints import CheckpointStore, open_checkpoint, open_store
from pipeline.store.states import FolderStates
from schemas.core.errors import CheckpointError, ConfigError, DataError
from schemas.core.refs import FolderModel
from schemas.core.regular_files import open_regular, read_regular, special_kind
from schemas.data.corpus import GeneralCorpus
from schemas.data.tasks import FileTask
from stages.augmentation.nearest_words import glove_file
from stages.augmentation.stop_words import read_words
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task, task_digest
from stages.models.encoders import locate
from stages.ports.protocols import TrainingState
from stages.storage.sealed_folder import is_whole, make_whole, sha256_of
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.toys import toy_rows, toy_teacher, write_rows
from tests.torture.damage import SUFFIXES
from tests.torture.hostile import bound_socket, ended_after, endless, fifo

SECONDS = 10


KINDS = (fifo, endless, bound_socket)
Make = Callable[[Path], str]


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    """End a test that blocks on a missing writer."""

    with ended_after(SECONDS):
        yield


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".csv.gz", ".jsonl.zst"])
def test_a_special_file_as_task_rows_is_refused(tmp_path: Path, make: Make, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    kind = make(path)
    for pattern in (str(path), f"{tmp_path}/train.*"):
        task = FileTask(train=pattern, validation=pattern, text_pair="auto")
        for read in (task_digest, lambda task: load_task(task, tmp_path / "cache")):
            with pytest.raises(DataError) as caught:
                read(task)
            message = f"task.train: {path} is {kind}, not a regular file; give a regular file"
            assert str(caught.value) == message


def corpus(*paths: Path, **fields: Any) -> GeneralCorpus:
    source = {"kind": "files", "paths": [str(path) for path in paths], **fields}
    return GeneralCorpus.model_validate({"sources": [source], "held_out_rows": 1})


@pytest.mark.parametrize("make", KINDS)
def test_a_special_file_as_a_corpus_is_refused(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "texts"
    write_rows(folder / "a.jsonl", [{"text": "row"}, {"text": "other row"}])
    kind = make(folder / "b.jsonl")
    for pattern in (folder, folder / "*.jsonl", folder / "b.jsonl"):
        with pytest.raises(DataError, match=f"b.jsonl is {kind}, not a regular file"):
            load_corpus(corpus(pattern), tmp_path / "cache")


@pytest.mark.parametrize("name", ["state.json", "data.arrow", "dataset_info.json"])
def test_a_special_file_in_a_saved_data_set_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (tmp_path / name).unlink(missing_ok=True)
    fifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is a FIFO, not a regular file"):
        load_corpus(corpus(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize("make", KINDS)
def test_a_special_file_as_recipe_glove_file_or_word_list_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "given.yaml"
    message = f"{make(path)}, not a regular file"
    with pytest.raises(ConfigError, match=message):
        read_recipe(str(path))
    with pytest.raises(DataError, match=message):
        glove_file(str(path))
    with pytest.raises(DataError, match=message):
        read_words(str(path))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model."""
    return toy_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "2_Dense/model.safetensors",
    ],
)
def test_a_special_file_in_a_model_is_refused(tmp_path: Path, teacher: Path, make: Make, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(teacher, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    kind = make(folder / name)
    with pytest.raises(DataError, match=f"teacher model .*{name} is {kind}, not a regular file"):
        locate(FolderModel(path=str(folder)))


def test_a_special_file_as_a_model_is_refused(tmp_path: Path) -> None:
    fifo(tmp_path / "model")
    with pytest.raises(DataError, match="is a FIFO, not a regular file"):
        locate(FolderModel(path=str(tmp_path / "model")))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """A fresh store."""
    return open_store(tmp_path / "store")


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "name", ["manifest.json", "manifest.sha256", "model/model.safetensors", "projections.safetensors"]
)
def test_a_special_file_in_a_checkpoint_is_refused(store: CheckpointStore, make: Make, name: str) -> None:
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    (folder / name).unlink()
    kind = make(folder / name)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    if name != "manifest.sha256":
        assert f"{name} is {kind}, not a regular file" in str(caught.value)


def test_a_special_file_as_a_checkpoint_is_refused(tmp_path: Path) -> None:
    fifo(tmp_path / "general")
    with pytest.raises(CheckpointError, match="general is a FIFO, not a regular file"):
        open_checkpoint(tmp_path / "general")


@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
def test_a_state_with_a_special_file_is_skipped(tmp_path: Path, name: str) -> None:
    states = FolderStates(tmp_path / "s", "general", DIGEST)
    for step in (1, 2):
        states.save(TrainingState(step=step, tensors={}, numbers={}))
    (newest,) = (tmp_path / "s").glob("*2")
    (newest / name).unlink()
    fifo(newest / name)
    result = FolderStates(tmp_path / "s", "general", DIGEST).latest()
    assert result is not None
    assert result.step == 1


def test_a_cache_with_a_special_file_is_replaced(tmp_path: Path) -> None:
    make_whole(tmp_path / "rows", lambda into: write_rows(into / "a.jsonl", toy_rows(2, 0)) and None)
    assert is_whole(tmp_path / "rows")
    for name in ("a.jsonl", "sealed.json"):
        (tmp_path / "rows" / name).unlink()
        fifo(tmp_path / "rows" / name)
        assert not is_whole(tmp_path / "rows")


def test_file_that_becomes_special_after_its_check_is_not_read(tmp_path: Path) -> None:
    for make in KINDS:
        path = tmp_path / make.__name__
        make(path)
        for read in (open_regular, sha256_of):
            with pytest.raises(OSError, match=r"not a regular file|No such device"):
                read(path)


def test_links_to_files_and_missing_paths_are_not_special(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    for name in ("file", "link", "broken", "none", "."):
        assert special_kind(tmp_path / name) is None
    assert read_regular(tmp_path / "link") == b"x"
