"""Parquet files: named columns are read unchanged, and each text counts as often as it occurs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.files.read_request import Reading
from stages.data.readers.files import read_file
from stages.data.tasks.load import load_task
from tests.support.paths import ROOT
from tests.torture.bombs import parquet_bomb

N = 7
SOME = ["a", "", "bb", None, "ccc", "bb", "é"]
KINDS: dict[str, pa.Array] = {
    "string": pa.array(SOME),
    "large_string": pa.array(SOME, pa.large_string()),
    "binary": pa.array([b"a"] * N),
    "numbers": pa.array(range(N), pa.int16()),
    "list": pa.array([[], ["a", None], None, ["b"], ["é"], [], ["c", "c"]]),
    "large_list": pa.array([["a"]] * N, pa.large_list(pa.large_string())),
    "floats": pa.array([[0.5, 1.5]] * N, pa.list_(pa.float32(), 2)),
    "object": pa.array([{"text": text, "numbers": [1, 2]} for text in SOME]),
    "objects": pa.array([[{"text": text, "deep": [[text]]}] for text in SOME]),
    "null": pa.nulls(N),
    "truth": pa.array([True, None] + [False] * 5),
}


def rows_of(file: Path, tmp_path: Path, **options: Any) -> datasets.Dataset:
    return read_file(file, tmp_path / "cache", "task.train", **options).rows


def named(*columns: str) -> Reading:
    return Reading(named=frozenset(columns))


@pytest.mark.parametrize("row_group_size", [2, 100])
@pytest.mark.parametrize("batch_bytes", [1, 8 << 20])
def test_every_column_type_is_read_unchanged(
    tmp_path: Path, row_group_size: int, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.data.formats.parquet._BATCH_BYTES", batch_bytes)
    table = pa.table(KINDS)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group_size)
    rows = rows_of(tmp_path / "a.parquet", tmp_path)
    assert rows.to_list() == table.to_pylist()
    assert rows.features == datasets.Features.from_arrow_schema(table.schema)


def test_names_of_classes_and_categories_are_kept(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text_a": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    written = datasets.Dataset.from_dict({"text_a": ["x", "y"], "label": [1, 0]}, features)
    written.to_parquet(str(tmp_path / "a.parquet"))
    assert rows_of(tmp_path / "a.parquet", tmp_path).features == features
    categories = pa.array(["yes", "no", None]).dictionary_encode()
    pq.write_table(pa.table({"label": categories}), tmp_path / "b.parquet")
    assert rows_of(tmp_path / "b.parquet", tmp_path)["label"][:] == ["yes", "no", None]


def test_delta_encoded_texts_are_read(tmp_path: Path) -> None:
    texts = [f"the same beginning, {number}" for number in range(1000)]
    encoding = {"text": "DELTA_BYTE_ARRAY"}
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, column_encoding=encoding)
    assert rows_of(tmp_path / "a.parquet", tmp_path)["text"][:] == texts


def test_only_named_columns_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {"id": [1, 2], " Text ": ["a", "b"], "vector": [[0.0] * 9] * 2, "o.p": [3, 4], "o": [{"p": "x", "q": "y"}] * 2}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet", tmp_path, reading=named("text", "o.p", "/some/file"))
    assert rows.column_names == table.column_names
    assert rows[1] == {"id": None, " Text ": "b", "vector": None, "o.p": 4, "o": {"p": "x", "q": "y"}}
    # Other columns of the same file are read anew.
    assert rows_of(tmp_path / "a.parquet", tmp_path, reading=named("id"))["id"][:] == [1, 2]
    assert rows_of(tmp_path / "a.parquet", tmp_path, reading=named()).num_rows == 2


def test_error_about_a_missing_column_lists_all_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text_a": ["x", "y"], "z": [1, 2], "label": [0, 1]}), file)
    task = FileTask(train=str(file), validation=str(file), text="sentence")
    with pytest.raises(DataError, match="no column 'sentence'; the columns are text_a, z, label"):
        load_task(task, tmp_path / "cache")


def test_error_names_a_long_row_in_any_row_group(tmp_path: Path) -> None:
    rows = [["x"]] * 50 + [["x" * 1_500_000, "y" * 1_500_000]] + [["z"]] * 20
    pq.write_table(pa.table({"words": rows}), tmp_path / "a.parquet", row_group_size=40)
    with pytest.raises(DataError, match="row 51: column 'words' holds more than 2 MB"):
        rows_of(tmp_path / "a.parquet", tmp_path)


def test_short_text_of_a_long_dictionary_counts_by_its_length(tmp_path: Path) -> None:
    texts = ["x" * 1_900_000, *["short"] * 5000, "y" * 1_900_000]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    assert rows_of(tmp_path / "a.parquet", tmp_path)["text"][:] == texts


def test_bombs_are_refused_in_read_columns_and_ignored_in_others(tmp_path: Path) -> None:
    for kind in ("large string", "maps", "a list of zeros", "many groups"):
        (tmp_path / f"{kind}.parquet").write_bytes(parquet_bomb(kind))
    for kind in ("large string", "lists of objects", "fixed size"):
        (tmp_path / f"{kind} beside.parquet").write_bytes(parquet_bomb(kind, beside=True))
    for kind, (grown, message) in _measured(tmp_path).items():
        if "beside" in kind:
            assert message.startswith("read"), (kind, message)
        else:
            assert "unpacks to more than" in message or "more than 2 MB" in message or "map<" in message, message
        assert grown < 80 << 20, f"{kind}: {grown >> 20} MiB"


# Each file is read in a separate fork, so that its memory is measured separately.
_MEASURE = """
import json, os, resource, sys
from pathlib import Path
from schemas.data.corpus import FileText, GeneralCorpus
from schemas.core.errors import DataError
from stages.data.corpus.prepare import load_corpus

def load(path, cache):
    sources = (FileText(paths=(str(path),), column="text_a"),)
    try:
        return f"read {len(load_corpus(GeneralCorpus(sources=sources, held_out_rows=1), cache).train)}"
    except DataError as error:
        return str(error)

for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = load(path, path.parent / "cache")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        os.write(writes, json.dumps([path.stem, grown, said]).encode())
        os._exit(0)
    os.close(writes)
    print(open(reads).read(), flush=True)
    os.waitpid(child, 0)
"""


def _measured(folder: Path) -> dict[str, tuple[int, str]]:
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=250
    )
    return {name: (grown, message) for name, grown, message in map(json.loads, ran.stdout.splitlines())}


def test_equal_texts_within_the_bounds_are_read(tmp_path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"text": texts.cast(pa.large_string())}), tmp_path / "a.parquet", compression="zstd")
    assert rows_of(tmp_path / "a.parquet", tmp_path)["text"][49] == "x" * 1_000_000
