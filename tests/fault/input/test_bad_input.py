"""Files designed to fill memory, hang or execute code are refused by line with a remedy, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.recipes.shipped import read_recipe
from schemas.core.errors import ConfigError, DataError
from schemas.data.tasks import FileTask
from stages.data.tasks.load import load_task
from tests.support.paths import ROOT
from tests.torture.bombs import COLUMNS, parquet_bomb
from tests.torture.damage import ROWS, SUFFIXES, Touch, gzip_bomb, harmful, long_lines, written

MOST_BYTES = 1 << 30
MOST_BOMB_BYTES = 80 << 20
MOST_SECONDS = 10.0

# Each file is read in a separate child process, so that its memory is measured separately.
MEASURE = """
import json, os, sys
from pathlib import Path
from schemas.data.corpus import FileText, GeneralCorpus
from schemas.data.tasks import FileTask
from schemas.core.errors import DataError
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task

folder = Path(sys.argv[1])
good = str(folder / "good.jsonl")

def load(name):
    try:
        if ".txt" in name:
            sources = (FileText(paths=(str(folder / name),)),)
            load_corpus(GeneralCorpus(sources=sources, held_out_rows=1), folder / "cache")
        else:
            task = FileTask(train=str(folder / name), validation=good, text_pair="auto")
            load_task(task, folder / "cache")
    except DataError as error:
        return str(error)
    return ""

load("good.jsonl")
for name in sys.argv[2:]:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, load(name).encode()[:4000])
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as said:
        message = said.read().decode()
    _, status, usage = os.wait4(child, 0)
    # The processor's seconds: on a busy machine those of the clock are other people's as well.
    taken = usage.ru_utime + usage.ru_stime
    print(json.dumps([name, status, usage.ru_maxrss * 1024, taken, message]), flush=True)
"""


def measured(folder: Path, names: list[str]) -> dict[str, tuple[int, int, float, str]]:
    """Return exit status, peak memory, seconds and message of each file."""
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), *names], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=250
    ).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    return {name: (status, peak, seconds, expected_message) for name, status, peak, seconds, expected_message in lines}


@pytest.mark.slow
def test_bad_files_cost_less_than_a_gigabyte_and_ten_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.jsonl").write_bytes(written(ROWS, ".jsonl"))
    contents: dict[str, Any] = {f"line{suffix}": lambda s=suffix: long_lines(s) for suffix in SUFFIXES}
    contents |= {f"rows{suffix}.gz": lambda: gzip_bomb(b"a,b\n") for suffix in (".csv", ".txt")}
    contents |= {
        "line.jsonl.gz": lambda: gzip_bomb(b"x"),
        "blank.jsonl.gz": lambda: gzip_bomb(b"\n"),
        "array.json.gz": lambda: gzip_bomb(b"[],"),
        "header.csv": lambda: b"," * 100_000_000,
        "nested.jsonl": lambda: b"[" * 100_000_000,
        "objects.json": lambda: b"[" + b"{}," * 999_999 + b"{}]",
        **{f"{kind}.parquet": lambda k=kind: parquet_bomb(k) for kind in COLUMNS},
    }
    for name, make in contents.items():
        (tmp_path / name).write_bytes(make())
    long_lines.cache_clear()
    result = measured(tmp_path, ["good.jsonl", *contents])
    status, base, _, message = result.pop("good.jsonl")
    assert (status, message) == (0, "")
    with capsys.disabled():
        for name, (_, peak, seconds, _) in result.items():
            print(f"{name}: {(peak - base) / 2**20:.0f} MiB, {seconds:.1f} s")
    for name, (status, peak, seconds, message) in result.items():
        assert status == 0, f"{name} ended with {status}"
        assert name in message, f"{name} was taken"
        assert len(message) < 1000, name
        most = MOST_BOMB_BYTES if name.endswith(".parquet") and name[:-8] in COLUMNS else MOST_BYTES
        assert peak - base < most, f"{name} took {(peak - base) / 2**20:.0f} MiB"
        assert seconds < MOST_SECONDS, f"{name} took {seconds:.1f} s"


def refused(path: Path, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_task(FileTask(train=str(path), validation=str(path), **changes), tmp_path / "cache")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text_a,label\n" + b"x" * 5_000_000 + b",no\n", "line 2 is longer than 2 MB"),
        ("a.jsonl.gz", gzip.compress(b"\n" * 80_000_000, mtime=0), "unpacks to more than 67 MB"),
        ("a.json", b"[" + b"[]," * 2_100_000, "one JSON array of more than 32 MB or 1,000,000 values"),
        ("a.csv", ",".join(f"c{n}" for n in range(1500)).encode() + b"\n1\n", "names 1,500 columns"),
        ("a.jsonl", b"".join(b'{"id %d": 1}\n' % n for n in range(1500)), "up to line 1001 have more than"),
        ("a.jsonl", b'{"text_a": "x", "label": "%s"}\n' % (b"y" * 5000), "row 1: label 'label' is longer than"),
        (
            "a.csv",
            b"text_a,label\nx,1,2\n",
            "line 2 (row 1) has 3 fields but line 1 names 2 columns; put double quotes around",
        ),
    ],
)
def test_error_names_location_and_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    for pair in (None, "auto"):
        message = refused(tmp_path / name, tmp_path, text_pair=pair)
        assert words in message
        assert message.startswith("task.train: ")
        assert str(tmp_path / name) in message
        assert ";" in message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"text_a": ["x", "y" * 5_000_000], "label": [0, 1]}, "row 2: column 'text_a' holds more than 2 MB"),
        ({f"c{n}": [1] for n in range(1500)}, "has 1,500 columns"),
    ],
)
def test_parquet_file_out_of_bounds_is_refused(tmp_path: Path, table: dict[str, list[Any]], words: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert words in refused(tmp_path / "a.parquet", tmp_path)


def test_message_shortens_long_values(tmp_path: Path) -> None:
    rows = [{"text_a": "x", "label": f"{n % 100} {'y' * 900}"} for n in range(500)]
    (tmp_path / "a.jsonl").write_bytes(written(rows, ".jsonl"))
    (tmp_path / "b.jsonl").write_bytes(written([{"text_a": "x", "label": "z" * 900}], ".jsonl"))
    task = FileTask(train=str(tmp_path / "a.jsonl"), validation=str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="… \\(100 in all\\)") as caught:
        load_task(task, tmp_path / "cache")
    assert len(str(caught.value)) < 1500


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    # Only line feeds and carriage returns end a line of CSV; other separators are part of a text.
    (tmp_path / "a.csv").write_bytes("text_a,label\r\none\u2028two,no\r\nthree\x0cfour,yes\r\n".encode())
    rows = load_task(FileTask(train=str(tmp_path / "a.csv"), validation=str(tmp_path / "a.csv")), tmp_path / "c")
    assert rows.train["text"][:] == ["one\u2028two", "three\x0cfour"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickle_with_any_ending_runs_nothing(tmp_path: Path, suffix: str) -> None:
    canary = tmp_path / "canary"
    content = pickle.dumps(Touch(str(canary)))
    file = tmp_path / f"train{suffix}"
    file.write_bytes(content)
    (tmp_path / "train.py").write_text(f"open({str(canary)!r}, 'w')")
    refused(file, tmp_path)
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists(), "unpickling executes the payload"


@pytest.mark.parametrize("number", range(8))
def test_reading_a_recipe_runs_nothing(tmp_path: Path, number: int) -> None:
    value = harmful(str(tmp_path / "canary"))[number]
    (tmp_path / "recipe.yaml").write_text(f"name: {value}\n")
    for source, changes in ((str(tmp_path / "recipe.yaml"), []), ("quickstart", [f"name={value}"])):
        with pytest.raises(ConfigError):
            read_recipe(source, changes)
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_recipe_of_100_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "recipe.yaml").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        read_recipe(str(tmp_path / "recipe.yaml"))
