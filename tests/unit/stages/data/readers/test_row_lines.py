"""Errors about a row name its line, and suggest similar names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.corpus.prepare import load_corpus
from stages.data.tasks.load import load_task
from tests.support.tasks import corpus, file_task, refused

GOOD = {"text_a": "a good film", "label": "yes"}
LINE = json.dumps(GOOD) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "location"),
    [
        ("t.jsonl", LINE * 4 + '{"text_a": "", "label": "no"}\n', "row 5: "),
        ("t.jsonl", LINE + "\n \n" + '{"text_a": "", "label": "no"}\n', "row 2 (line 4): "),
        ("t.json", json.dumps([GOOD, {"text_a": "", "label": "no"}], indent=1), "row 2: "),
        ("t.csv", 'text_a,label\n"two\nlines",yes\n\n,no\nx,no\n', "row 2 (line 5): "),
        ("t.csv", ",text_a,label\n0,fine,yes\n1,,no\n", "row 2 (line 3): "),
        ("t.csv", "text_a;label\nfine;yes\n;no\n", "row 2 (line 3): "),
        ("t.tsv", "label\ttext_a\nyes\tfine\nno\t\n", "row 2 (line 3): "),
        ("t.tsv.gz", "label\ttext_a\nyes\tfine\nno\t\n", "row 2 (line 3): "),
    ],
)
def test_error_names_row_and_line(name: str, content: str, location: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    message = refused(file_task(path), tmp_path)
    assert message.startswith(f"task.train: {path}: {location}column 'text_a' is empty"), message


def test_line_counts_rows_that_were_left_out(tmp_path: Path) -> None:
    lines = ["text_a,label", *(f"text {n},{'yes' if n % 2 else 'no'}" for n in range(99))]
    train, validation = tmp_path / "t.csv", tmp_path / "v.csv"
    train.write_text("\n".join(lines))
    lines[10:10] = [",yes"]
    validation.write_text("\n".join([*lines, "odd,yess"]))
    message = refused(file_task(train, validation), tmp_path)
    assert f"{validation}: row 101 (line 102): label 'yess' is not one of no, yes" in message
    assert "(did you mean yes?)" in message


def test_error_names_the_line_of_a_sentences_first_word(tmp_path: Path) -> None:
    path = tmp_path / "t.conll"
    path.write_text("-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\ncalls NNS O\n\nBonn NNP B-LOC\n")
    task = FileTask.model_validate(
        {
            "train": str(path),
            "validation": str(path),
            "problem": "token_classification",
            "text": "tokens",
            "label": "tags",
            "labels": ["O", "B-ORG"],
        }
    )
    assert f"{path}: row 3 (line 8): label 'B-LOC' is not one of" in refused(task, tmp_path)


def test_error_suggests_a_similar_column(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"txt_a": "fine", "lable": "yes"}) + "\n")
    expected_message = "there is no column 'label' (did you mean lable?); the columns are txt_a, lable"
    assert expected_message in refused(file_task(path, text="txt_a"), tmp_path)
    assert "'text_a' (did you mean txt_a?)" in refused(file_task(path, label="lable"), tmp_path)
    pair = {"text": "txt_a", "text_pair": "txt_b", "label": "lable"}
    assert "'txt_b'; the columns" in refused(file_task(path, **pair), tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("data/trian.jsonl", "train.jsonl"), ("daat/train.jsonl", "data"), ("data/train.json", "train.jsonl")],
)
def test_error_suggests_a_similar_file_or_folder(name: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text(LINE * 2)
    assert f"(did you mean {meant}?)" in refused(file_task(tmp_path / name), tmp_path)


@pytest.mark.parametrize(
    ("text", "fields", "expected_message"),
    [
        ('{"body": "x"}\n' * 9, {}, "there is no column 'text'"),
        ("", {}, "is empty"),
        ('{"text": "x"}\n', {}, "lower general_corpus.held_out_rows"),
    ],
)
def test_errors_about_a_corpus_name_the_recipes_key(
    text: str, fields: dict[str, Any], expected_message: str, tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        load_corpus(corpus(tmp_path / "c.jsonl", **fields), tmp_path / "cache")
    assert str(caught.value).startswith("general_corpus.sources: ")
    assert expected_message in str(caught.value)


def test_lines_are_not_looked_up_for_valid_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.readers.row_lines._line_of", pytest.fail)
    path = tmp_path / "t.jsonl"
    path.write_text(LINE + '{"text_a": "dull", "label": "no"}\n')
    assert load_task(file_task(path), tmp_path / "cache").labels == ("no", "yes")
