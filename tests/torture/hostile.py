"""Parquet files that decompress to gigabytes, in every shape, and special files wherever a file is expected.

A column that a recipe names is refused in tens of megabytes, and an unnamed one is not read. A FIFO, a socket or a
device is refused before it is opened.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.recipes.shipped import read_recipe
from pipeline.store.checkpoints import open_checkpoint, open_store
from schemas.core.errors import CheckpointError, DataError
from schemas.core.refs import FolderModel
from schemas.data.corpus import GeneralCorpus
from schemas.data.tasks import FileTask
from stages.augmentation.nearest_words import glove_file
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task
from stages.models.encoders import locate
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.toys import toy_teacher, write_rows
from tests.torture.damage import SUFFIXES
from tests.torture.inputs import LONGEST_SECONDS, Inputs, drive

MOST_BOMB_BYTES = 96 << 20
_MEANT_BYTES = 120_000_000
"""Smallest decompressed size of a bomb; a small file may decompress to 64 MB."""

Draw = Callable[[st.SearchStrategy[Any]], Any]


# --- bombs


@dataclass(frozen=True)
class Bomb:
    """Recipe of a small Parquet file that decompresses to much."""

    leaf: str
    """Kind of the values."""
    wrapping: tuple[str, ...]
    """Nesting of the values, from the inside out."""
    size: int
    """Bytes of each value, if the kind allows a choice."""
    compression: str
    row_group_size: int
    beside: bool
    """The column is not named by the recipe."""
    as_corpus: bool

    def write(self, file: Path) -> None:
        """Write the file in a child process, so that its memory is freed."""
        if (child := os.fork()) == 0:
            code = 1
            try:
                self._write(file)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, self

    def _write(self, file: Path) -> None:
        column = self._column()
        for wrapping in self.wrapping:
            column = _WRAPPINGS[wrapping](column)
        rows = len(column)
        good = pa.array([f"text {row % 7}" for row in range(rows)])
        labels = pa.array([("no", "yes")[row % 2] for row in range(rows)])
        table = pa.table({"text_a": column, "label": labels})
        if self.beside:
            table = pa.table({"other": column, "text_a": good, "label": labels})
        encoded: dict[str, Any] = {}
        if self.leaf == "prefixes" and not self.beside and not self.wrapping:
            encoded = {"use_dictionary": False, "column_encoding": {"text_a": "DELTA_BYTE_ARRAY"}}
        # Row groups enlarge the footer, so a file with very many is not small.
        group = max(self.row_group_size, rows // 100)
        pq.write_table(table, file, compression=self.compression, row_group_size=group, **encoded)

    def _column(self) -> pa.Array:
        number = max(2, _MEANT_BYTES // self.size)
        if self.leaf in ("text", "large text", "prefixes"):
            places = pa.array(np.zeros(number, np.int32))
            texts = pa.DictionaryArray.from_arrays(places, pa.array(["x" * self.size]))
            return texts.cast(pa.large_string()) if self.leaf == "large text" else texts
        if self.leaf == "fixed size":
            return pa.array([bytes(self.size)] * number, pa.binary(self.size))
        if self.leaf == "decimals":
            zeros = pa.array(np.zeros(_MEANT_BYTES // 40, np.int64)).cast(pa.decimal128(38, 2))
        else:
            zeros = pa.array(np.zeros(_MEANT_BYTES // 10, np.int8))
        return pa.ListArray.from_arrays(_offsets(len(zeros), 1_000_000), zeros)


def _offsets(number: int, size: int) -> pa.Array:
    return pa.array(np.append(np.arange(0, number, size), number).astype(np.int32))


_WRAPPINGS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "lists": lambda values: pa.ListArray.from_arrays(_offsets(len(values), 2), values),
    "one list": lambda values: pa.ListArray.from_arrays(_offsets(len(values), len(values)), values),
    "large lists": lambda values: pa.LargeListArray.from_arrays(_offsets(len(values), 3).cast(pa.int64()), values),
    "objects": lambda values: pa.StructArray.from_arrays([values], ["inside"]),
    "maps": lambda values: pa.MapArray.from_arrays(
        _offsets(len(values), 2), pa.array(np.zeros(len(values), np.int64)), values
    ),
}


@st.composite
def bombs(draw: Draw) -> Bomb:
    """Strategy for bombs of any shape."""
    leaf = draw(st.sampled_from(("text", "large text", "prefixes", "fixed size", "zeros", "decimals")))
    return Bomb(
        leaf=leaf,
        wrapping=tuple(draw(st.lists(st.sampled_from(tuple(_WRAPPINGS)), max_size=3))),
        size=draw(st.sampled_from((20_000, 300_000, 1_900_000, 9_000_000))),
        compression=draw(st.sampled_from(("zstd", "gzip", "brotli"))),
        row_group_size=draw(st.sampled_from((1, 7, 1000, 1 << 30))),
        beside=draw(st.integers(0, 4)) == 0,
        as_corpus=draw(st.booleans()),
    )


def bomb_campaign(folder: Path, *, cases: int, seed: int = 0) -> Inputs:
    """Load bombs as rows of a task or as a corpus."""
    file = folder / "bomb.parquet"

    def check(tally: Inputs, case: Bomb, _: bool) -> list[str]:
        tally.kinds[case.leaf] += 1
        case.write(file)
        load = _as_corpus if case.as_corpus else _as_task
        cache = folder / f"cache {tally.kinds.total()}"
        refused, problems = tally.try_one(repr(case), lambda: load(file, cache), MOST_BOMB_BYTES)
        shutil.rmtree(cache, ignore_errors=True)
        if not refused and not case.beside:
            problems.append("it was accepted")
            tally.losses.append(f"{case}: it was accepted")
        return problems

    return drive(bombs(), check, cases, seed, 0)


def _as_task(file: Path, cache: Path) -> None:
    load_task(FileTask(train=str(file), validation=str(file)), cache)


def _as_corpus(file: Path, cache: Path) -> None:
    source = {"kind": "files", "paths": [str(file)], "column": "text_a"}
    load_corpus(GeneralCorpus.model_validate({"sources": [source], "held_out_rows": 1}), cache)


# --- special files


def fifo(path: Path) -> str:
    """Make a FIFO without a writer; return its name in messages."""
    os.mkfifo(path)
    return "a FIFO"


def endless(path: Path) -> str:
    """Make a link to an endless device; return its name in messages."""
    path.symlink_to("/dev/zero")
    return "a device"


def bound_socket(path: Path) -> str:
    """Make a socket; return its name in messages."""
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is limited to about a hundred bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)
    return "a socket"


SPECIAL = {"FIFO": fifo, "device": endless, "socket": bound_socket}
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "spm.model",
    "added_tokens.json",
    "model.safetensors.index.json",
)
_CHECKPOINT_FILES = ("manifest.json", "model/model.safetensors", "projections.safetensors")


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in code that blocks."""

    def late(*_: object) -> None:
        raise TimeoutError("it blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _data(folder: Path, make: Callable[[Path], str], number: int) -> Callable[[], Any]:
    suffix = (*SUFFIXES, ".csv.gz", ".txt.zst")[number % 8]
    file = folder / f"train{suffix}"
    make(file)
    pattern = (file, folder / "train.*")[number % 2]
    return lambda: _as_task(pattern, folder / "cache")


def _corpus(folder: Path, make: Callable[[Path], str], number: int) -> Callable[[], Any]:
    write_rows(folder / "texts" / "a.jsonl", [{"text_a": "row"}, {"text_a": "other"}])
    make(folder / "texts" / "b.jsonl")
    pattern = ("texts", "texts/*.jsonl", "texts/b.jsonl")[number % 3]
    return lambda: _as_corpus(folder / pattern, folder / "cache")


def _table(folder: Path, make: Callable[[Path], str], _: int) -> Callable[[], Any]:
    make(folder / "data vectors.txt")
    return lambda: glove_file(str(folder / "data vectors.txt"))


def _recipe(folder: Path, make: Callable[[Path], str], _: int) -> Callable[[], Any]:
    make(folder / "recipe.yaml")
    return lambda: read_recipe(str(folder / "recipe.yaml"))


def _model(case_folder: Path, make: Callable[[Path], str], number: int) -> Callable[[], Any]:
    folder = toy_teacher(case_folder / "data model")
    file = folder / _MODEL_FILES[number % len(_MODEL_FILES)]
    file.unlink(missing_ok=True)
    make(file)
    return lambda: locate(FolderModel(path=str(folder)))


def _checkpoint(case_folder: Path, make: Callable[[Path], str], number: int) -> Callable[[], Any]:
    store = open_store(case_folder / "data store")
    folder = Path(store.writer("teacher", DIGEST).commit(manifest_of(), write_model).path)
    file = folder / _CHECKPOINT_FILES[number % 3]
    file.unlink()
    make(file)

    def load() -> None:
        try:
            open_checkpoint(folder)
        except CheckpointError as error:
            raise DataError(str(error)) from None

    return load


_PLACES: dict[str, Callable[[Path, Callable[[Path], str], int], Callable[[], Any]]] = {
    "data": _data,
    "corpus": _corpus,
    "table of vectors": _table,
    "recipe": _recipe,
    "model": _model,
    "checkpoint": _checkpoint,
}


def special_campaign(folder: Path, *, cases: int, seed: int = 0) -> Inputs:
    """Load special files in place of data, models, recipes and checkpoints."""

    def check(tally: Inputs, case: tuple[str, str, int], _: bool) -> list[str]:
        where, kind, number = case
        tally.kinds[f"{kind} as {where}"] += 1
        case_folder = folder / f"case {tally.kinds.total()}"
        case_folder.mkdir()
        load = _PLACES[where](case_folder, SPECIAL[kind], number)
        with ended_after(LONGEST_SECONDS):
            refused, problems = tally.try_one(repr(case), load)
        shutil.rmtree(case_folder)
        if not refused:
            problems.append("it was accepted")
            tally.losses.append(f"{case}: it was accepted")
        return problems

    strategy = st.tuples(st.sampled_from(tuple(_PLACES)), st.sampled_from(tuple(SPECIAL)), st.integers(0, 100))
    return drive(strategy, check, cases, seed, 0)
