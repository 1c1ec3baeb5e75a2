"""Errors in a task's files are reported with location and remedy."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from schemas.data.tasks import FileTask, TaskData
from tests.support.tasks import ROWS, file_task, refused, write


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text_a": "x", "label": "a"}, {"text_a": "  ", "label": "b"}], ["row 2", "text_a", "is empty"]),
        ([{"text_a": "x", "label": "a"}, {"text_a": None, "label": "b"}], ["row 2", "text_a", "null"]),
        ([{"text_a": "x", "label": "a"}, {"text_a": 7, "label": "b"}], ["row 2", "the number 7, not text"]),
        ([{"text_a": 5, "label": "a"}, {"text_a": 7, "label": "b"}], ["row 1", "the number 5, not text"]),
        ([{"text_a": "x", "label": "a"}, {"text_a": ["x"], "label": "b"}], ["row 2", "a list"]),
        ([{"text_a": {"x": 1}, "label": "a"}, {"text_a": {"x": 1}, "label": "b"}], ["row 1", "an object"]),
        ([{"text_a": "x", "label": "a"}, {"text_a": "y"}], ["row 2", "label", "missing"]),
        ([{"text_a": "x", "label": "a"}, {"text_a": "y", "label": ""}], ["row 2", "label", "missing"]),
        ([{"text_a": "x", "label": 1}, {"text_a": "y", "label": None}], ["row 2", "label", "missing"]),
        (
            [{"text_a": "x", "label": 0.5}, {"text_a": "y", "label": 1.5}],
            ["row 1", "0.5", "whole number", "task.problem: regression"],
        ),
        (
            [{"text_a": "x", "label": ["a"]}, {"text_a": "y", "label": ["b"]}],
            ["row 1", "a list", "any number of labels multi_label"],
        ),
        ([{"text": "x", "label": 1}, {"text": "y", "label": 0}], ["'text_a'", "the columns are text, label"]),
        ([{"text_a": "x", "gold": 1}, {"text_a": "y", "gold": 0}], ["'label'", "the columns are text_a, gold"]),
        ([{"text_a": "x", "label": 1}, {"text_a": "y", "label": 1}], ["same label", "two classes"]),
    ],
)
def test_a_bad_row_is_named_with_its_file(tmp_path: Path, rows: list[dict[str, Any]], words: list[str]) -> None:
    message = refused(file_task(write(tmp_path / "a.jsonl", rows)), tmp_path)
    for word in [*words, "a.jsonl"] if "same label" not in words else words:
        assert word in message


def test_an_undeclared_label_is_named(tmp_path: Path) -> None:
    message = refused(file_task(write(tmp_path / "a.jsonl"), labels=("yes", "maybe")), tmp_path)
    assert "row 2: label 'no' is not one of yes, maybe (given as task.labels)" in message


def test_a_validation_label_missing_from_train_is_named(tmp_path: Path) -> None:
    validation = write(tmp_path / "v.jsonl", [*ROWS, {"text_a": "x", "label": "perhaps"}])
    message = refused(file_task(write(tmp_path / "a.jsonl"), validation), tmp_path)
    assert "v.jsonl: row 7: label 'perhaps' is not one of no, yes" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text_a": "x", "label": "a"}\n{"text_a": "y", \n', ["line 2", "not valid JSON"]),
        ("a.jsonl", b'{"text_a": "x", "label": "a"}\n"just text"\n', ["line 2", "no JSON object"]),
        ("a.json", b'[{"text_a": "x", "label": "a"},\n {"text_a": }]', ["line 2", "not valid JSON"]),
        ("a.jsonl", b"", ["is empty"]),
        ("a.jsonl", b"\n\n  \n", ["is empty"]),
        ("a.csv", b"text_a,label\n", ["has no rows"]),
        ("a.csv", b"text_a,label\nx,1\ny,2,3\n", ["line 3 (row 2) has 3 fields but line 1 names 2 columns"]),
        ("a.csv", b"text_a,label\nx,1,2\n", ["line 2 (row 1) has 3 fields"]),
        ("a.csv", b"text_a,text_a\nx,1\n", ["name each column once"]),
        ("a.csv", b'text_a,label\n"x,1\ny,2\n', ["lines 2 to 3 (row 1)", "is never closed"]),
        ("a.jsonl", '{"text_a": "café", "label": "a"}\n'.encode("latin-1"), ["line 1", "not UTF-8"]),
        ("a.jsonl", '{"text_a": "x"}\n'.encode("utf-16-le"), ["line 1", "format.encoding: utf-16-le"]),
        ("a.jsonl", b'{"text_a": "x", "label": "a"}\n{"text_a": "\x00"}\n', ["line 2", "NUL"]),
        ("a.jsonl.gz", gzip.compress(random.Random(0).randbytes(5000).hex().encode(), mtime=0)[:2000], ["cut short"]),
        ("a.jsonl.gz", b'{"text_a": "x", "label": "a"}\n', ["no gzip file"]),
        ("a.parquet", b"PAR1 but not really", ["cannot be read as .parquet"]),
        ("a.xlsx", b"PK", ["is a spreadsheet", "save it as CSV (UTF-8)"]),
        ("a.pkl", b"PK", ["no known format", ".jsonl"]),
    ],
)
def test_a_bad_file_is_named_with_line_and_remedy(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(file_task(tmp_path / name), tmp_path)
    for word in [*words, name, "task.train"]:
        assert word in message
    assert "Traceback" not in message
    assert refused(file_task(tmp_path / name, text_pair="auto"), tmp_path) == message


def test_a_missing_file_is_reported_with_the_existing_files(tmp_path: Path) -> None:
    write(tmp_path / "data/training-rows.csv")
    task = TypeAdapter(TaskData).validate_python(f"{tmp_path}/data")
    assert isinstance(task, FileTask)
    message = refused(task, tmp_path)
    assert "there is no file" in message
    assert "holds training-rows.csv" in message


def test_all_files_matching_an_ambiguous_pattern_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    write(tmp_path / "train.jsonl.gz")
    task = TypeAdapter(TaskData).validate_python(str(tmp_path))
    assert isinstance(task, FileTask)
    assert "matches 2 files" in refused(task, tmp_path)


def test_a_folder_given_as_a_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give a file in it" in refused(file_task(tmp_path), tmp_path)
