"""Rows of every kind of source."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask, TaskData
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task, task_digest
from tests.support.tasks import ROWS, corpus, file_task, refused, write

SHARED = Path(os.environ.get("DISTILL_SHARED", Path(__file__).parents[5].parent / "shared"))
needs_shared = pytest.mark.skipif(not (SHARED / "data/sst2").is_dir(), reason="the shared data is not on this machine")


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.csv.gz", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif suffix == ".jsonl":
        write(path)
    else:
        separator = {".csv": ",", ".tsv": "\t"}.get(suffix)
        lines = [separator.join(row.values()) for row in ROWS] if separator else []
        text = "\n".join([separator.join(ROWS[0]), *lines]) if separator else json.dumps(ROWS)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    rows = load_task(file_task(path), tmp_path / "cache")
    assert rows.labels == ("no", "yes")
    assert rows.train.to_list() == [{"text": row["text_a"], "label": int(row["label"] == "yes")} for row in ROWS]


def test_csv_keeps_words_like_null_and_labels_like_numbers_as_text(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", '\ufefftext_a,label\nNA,01\nnull,2\n"a, ""b""\nc",10\n')
    rows = load_task(file_task(path), tmp_path / "cache")
    assert list(rows.train["text"]) == ["NA", "null", 'a, "b"\nc']
    assert rows.labels == ("01", "2", "10")


def test_tsv_reads_quotes_literally(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.tsv", 'text_a\tlabel\n"open\t0\nno end\t1\n')
    assert list(load_task(file_task(path), tmp_path / "cache").train["text"]) == ['"open', "no end"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        ([True, False, True], ("false", "true")),
        (["b", "a", "10"], ("10", "a", "b")),
        (["1", 0, 1], ("0", "1")),
    ],
)
def test_labels_of_any_kind_become_sorted_names(tmp_path: Path, labels: list[Any], expected: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.jsonl", [{"text_a": "x", "label": label} for label in labels])
    rows = load_task(file_task(path), tmp_path / "cache")
    assert rows.labels == expected
    named = [rows.labels[label] for label in rows.train["label"]]
    assert named == [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]


def test_declared_labels_determine_the_order(tmp_path: Path) -> None:
    rows = load_task(file_task(write(tmp_path / "a.jsonl"), labels=("yes", "no")), tmp_path / "cache")
    assert rows.labels == ("yes", "no")
    assert rows.train["label"][:2] == [0, 1]


def test_pair_tasks_have_both_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, "text_b": "second"} for row in ROWS])
    rows = load_task(file_task(path, text_pair="text_b"), tmp_path / "cache")
    assert rows.train.column_names == ["text", "text_pair", "label"]
    assert "text_pair" not in load_task(file_task(path), tmp_path / "cache").train.column_names


PAIRS = [{**row, "text_b": "second"} for row in ROWS]


def test_a_folder_is_a_pair_task_if_its_training_file_has_text_b(tmp_path: Path) -> None:
    for name, rows in (("pairs", PAIRS), ("single", ROWS)):
        write(tmp_path / name / "train.jsonl.gz", rows)
        write(tmp_path / name / "validation.jsonl", rows)
    for name, columns in (("pairs", ["text", "text_pair", "label"]), ("single", ["text", "label"])):
        folder = TypeAdapter(TaskData).validate_python(str(tmp_path / name))
        assert load_task(folder, tmp_path / "cache").validation.column_names == columns
    # A detected task has the digest of the explicit one.
    train, validation = tmp_path / "pairs/train.jsonl.gz", tmp_path / "pairs/validation.jsonl"
    pairs = TypeAdapter(TaskData).validate_python(str(tmp_path / "pairs"))
    assert task_digest(pairs) == task_digest(file_task(train, validation, text_pair="text_b"))
    assert task_digest(pairs) != task_digest(file_task(train, validation))
    alone = pairs.model_copy(update={"text_pair": None})
    assert "text_pair" not in load_task(alone, tmp_path / "cache").train.column_names


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv.gz", "a.parquet"])
def test_a_second_text_is_detected_in_every_format(tmp_path: Path, name: str) -> None:
    for rows, expected in ((PAIRS, True), (ROWS, False)):
        path = tmp_path / str(expected) / name
        path.parent.mkdir()
        if name.endswith(".jsonl"):
            write(path, rows)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows))
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            separator = "," if name.endswith(".csv") else "\t"
            text = "\n".join(separator.join(row) for row in (rows[0], *(r.values() for r in rows)))
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        task = file_task(path, text_pair="auto")
        has_pair = "text_pair" in load_task(task, tmp_path / "cache").train.column_names
        assert has_pair is expected


def test_a_missing_second_text_is_refused_by_row(tmp_path: Path) -> None:
    some = write(tmp_path / "some.jsonl", [*ROWS, *PAIRS])
    message = refused(file_task(some, text_pair="auto"), tmp_path)
    assert "some.jsonl: row 1: column 'text_b' is missing or null" in message
    train, validation = write(tmp_path / "t.jsonl", PAIRS), write(tmp_path / "v.jsonl")
    message = refused(file_task(train, validation, text_pair="auto"), tmp_path)
    assert "v.jsonl: there is no column 'text_b'; the columns are text_a, label" in message


def test_a_folder_is_read_as_its_train_and_validation_files(tmp_path: Path) -> None:
    write(tmp_path / "odd [1] name/train.jsonl.gz")
    write(tmp_path / "odd [1] name/validation.jsonl", ROWS[:2])
    task = TypeAdapter(TaskData).validate_python(f"{tmp_path}/odd [1] name")
    literal = FileTask(
        train=str(tmp_path / "odd [1] name/train.jsonl.gz"), validation=str(tmp_path / "odd [1] name/validation.jsonl")
    )
    assert len(load_task(literal, tmp_path / "cache").validation) == 2
    assert len(load_task(task, tmp_path / "cache").train) == 6


def test_max_train_rows_are_drawn_with_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text_a": f"t{n}", "label": n % 2} for n in range(50)])
    first = load_task(file_task(path, max_train_rows=20), tmp_path / "cache")
    again = load_task(file_task(path, max_train_rows=20), tmp_path / "cache")
    reseeded = load_task(file_task(path, max_train_rows=20, seed=1), tmp_path / "cache")
    assert len(first.train) == 20
    assert len(first.validation) == 50
    assert first.train.to_list() == again.train.to_list() != reseeded.train.to_list()


# Digests


def test_the_digest_follows_content_and_not_location(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    task = file_task(path)
    before = task_digest(task)
    moved = tmp_path / "b.jsonl"
    shutil.copy(path, moved)
    assert task_digest(file_task(moved)) == before == load_task(task, tmp_path / "cache").digest
    assert task_digest(file_task(path, max_length=64)) != before
    write(path, ROWS[:4])
    assert task_digest(task) != before
    assert len(load_task(task, tmp_path / "cache").train) == 4


def test_a_corpus_digest_follows_content_and_config(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"text": f"t{n}"} for n in range(9)])
    second = write(tmp_path / "b.jsonl", [{"text": f"t{n}"} for n in range(9)])
    assert corpus_digest(corpus(first)) == corpus_digest(corpus(second))
    assert corpus_digest(corpus(first)) != corpus_digest(corpus(first, seed=1))
    assert load_corpus(corpus(first), tmp_path / "cache").digest == corpus_digest(corpus(first))


# Corpora


def test_held_out_rows_of_a_corpus_are_disjoint_by_text_and_stable(tmp_path: Path) -> None:
    texts = write(tmp_path / "a.jsonl", [{"text": f"t{n % 40}"} for n in range(100)])
    lines = write_text(tmp_path / "b.txt", "one line\n\n   \nand another\n")
    rows = load_corpus(corpus(texts, lines, held_out_rows=10), tmp_path / "cache")
    assert len(rows.held_out) == 10
    assert not set(rows.train["text"]) & set(rows.held_out["text"])
    assert set(rows.train["text"]) | set(rows.held_out["text"]) == {f"t{n}" for n in range(40)} | {
        "one line",
        "and another",
    }
    fewer = load_corpus(corpus(texts, lines, held_out_rows=10, max_rows=5), tmp_path / "cache")
    assert len(fewer.train) == 5
    assert fewer.held_out.to_list() == rows.held_out.to_list()


def test_a_corpus_smaller_than_its_held_out_rows_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "one\ntwo\n")
    with pytest.raises(DataError, match=r"2 rows of text in all, .* lower general_corpus.held_out_rows"):
        load_corpus(corpus(path), tmp_path / "cache")


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": " "}] * 5)
    with pytest.raises(DataError, match="empty in every row"):
        load_corpus(corpus(path), tmp_path / "cache")


@needs_shared
def test_sst2_loads_in_a_few_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    rows = load_task(TypeAdapter(TaskData).validate_python(str(SHARED / "data/sst2")), tmp_path)
    assert (len(rows.train), len(rows.validation), rows.labels) == (67_349, 872, ("0", "1"))
    assert time.monotonic() - began < 10


@needs_shared
def test_mrpc_loads_as_pairs(tmp_path: Path) -> None:
    task = TypeAdapter(TaskData).validate_python(str(SHARED / "data/mrpc"))
    rows = load_task(task, tmp_path)
    assert (len(rows.train), len(rows.validation), rows.labels) == (3_668, 408, ("0", "1"))
    assert rows.train.column_names == ["text", "text_pair", "label"]
