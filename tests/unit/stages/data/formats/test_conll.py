"""Files of tagged words in their published variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from schemas.core.errors import DataError
from schemas.data.file_format import FileFormat
from schemas.data.tasks import FileTask, TaskData
from stages.data.tasks.load import load_task
from stages.kinds.rows import TaskRows

TWO = [["EU", "rejects"], ["x"]]


def load(path: Path, content: str | bytes, **fields: Any) -> TaskRows:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    task = {"problem": "token_classification", "text": "tokens"} | fields
    task |= {"kind": "files", "train": str(path), "validation": str(path)}
    return load_task(TypeAdapter(TaskData).validate_python(task), path.parent / "cache")


def tags(rows: TaskRows) -> list[list[str]]:
    return [[rows.labels[tag] for tag in row] for row in rows.train["label"]]


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.bio", "a.iob", "a.tsv"])
@pytest.mark.parametrize(
    "content",
    [
        "EU NNP B-ORG\nrejects VBZ O\n\nx NN O\n",
        "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n   \n-DOCSTART- -X- O\n\nx NN O",
        "EU\tB-ORG\r\nrejects\tO\r\n\r\nx\tO\r\n",
        "# id 1\nEU\tB-ORG\nrejects\tO\n\n# id 2\nx\tO\n",
        "\ufeffEU  _ _  B-ORG \nrejects _ _ O\n\n\n\nx _ _ O\n\n",
        "# sent_id = 1\n1-2\tEUx\t_\t_\n1\tEU\t_\tB-ORG\n2\trejects\t_\tO\n\n1\tx\t_\tO\n",
    ],
)
def test_all_variants_of_the_format_give_the_same_sentences(tmp_path: Path, name: str, content: str) -> None:
    rows = load(tmp_path / name, content)
    assert rows.train["words"][:] == TWO
    assert tags(rows) == [["B-ORG", "O"], ["O"]]
    assert "read as CoNLL: words in field" in rows.remarks[0]


def test_a_number_sign_may_be_a_word(tmp_path: Path) -> None:
    rows = load(tmp_path / "a.conll", "# SYM O\nEU NNP B-ORG\nx NN O\n\n# a note of words\n# NN B-ORG\n")
    assert rows.train["words"][:] == [["#", "EU", "x"], ["#"]]
    rows = load(tmp_path / "b.conll", "EU\tB-ORG\n#ok\tO\nx\tO\n\n#\tO\n")
    assert rows.train["words"][:] == [["EU", "#ok", "x"], ["#"]]


def test_unusual_white_space_is_part_of_a_word(tmp_path: Path) -> None:
    rows = load(tmp_path / "a.conll", "10\u00a0000 B-X\nNew York\tO\n".replace(" York", "\u3000York"))
    assert rows.train["words"][:] == [["10\u00a0000", "New\u3000York"]]
    assert load(tmp_path / "b.conll", "New York\tB-X\nx\tO\n").train["words"][:] == [["New York", "x"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "token\ttag\nEU\tB-ORG\nrejects\tO\n\nx\tO\n"),
        ("a.conll", "label tokens\nB-ORG EU\nO rejects\n\nO x\n"),
        ("a.tsv", "id\tTokens\tpos\tLABEL\n1\tEU\tNNP\tB-ORG\n2\trejects\tVBZ\tO\n\n1\tx\tNN\tO\n"),
        ("a.csv", "Word,Tag\nEU,B-ORG\nrejects,O\n\nx,O\n"),
        ("a.csv", "EU,B-ORG\nrejects,O\n\nx,O\n"),
    ],
)
def test_header_names_the_fields_and_is_not_read_as_a_word(tmp_path: Path, name: str, content: str) -> None:
    rows = load(tmp_path / name, content)
    assert rows.train["words"][:] == TWO
    assert tags(rows) == [["B-ORG", "O"], ["O"]]


def test_quoted_comma_is_a_word(tmp_path: Path) -> None:
    rows = load(tmp_path / "a.csv", 'EU,B-ORG\n",",O\n\nx,O\n')
    assert rows.train["words"][:] == [["EU", ","], ["x"]]


def test_table_of_sentences_may_have_blank_lines(tmp_path: Path) -> None:
    content = "tokens,label\n\nEU rejects,B-ORG O\n\nx,O\n\n"
    rows = load(tmp_path / "a.csv", content)
    assert rows.train["words"][:] == TWO


def test_table_with_one_word_per_row_is_refused(tmp_path: Path) -> None:
    content = "Sentence,tokens,label\n" + "1,word,O\n" * 30
    with pytest.raises(DataError, match="column 'tokens' holds one word in every row"):
        load(tmp_path / "a.csv", content)


def test_named_columns_locate_words_and_tags(tmp_path: Path) -> None:
    content = "# source\n1\tEU\tB-ORG\tO\n2\trejects\tO\tO\n\n1\tx\tO\tO\n"
    columns = FileFormat(columns=("number", "tokens", "label", "inner"))
    rows = load(tmp_path / "a.tsv", content, format=columns.model_dump())
    assert rows.train["words"][:] == TWO
    assert tags(rows) == [["B-ORG", "O"], ["O"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU B-ORG\nrejects\n", "line 2 has 1 field, 'rejects', but the first has 2"),
        ("EU\nrejects\n", "a line has one field; give each word a line with the word and its tag"),
        ("EU\tB-ORG\n\tO\n", "line 2 has no word"),
        ("1\tEU\tX\t_\n2\tx\tX\t_\n", r"format.columns: \[field_1, tokens, field_3, label\]"),
        ("-DOCSTART- O\n\n", "has no words"),
    ],
)
def test_error_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "a.conll", content)
    assert "task.train: " in str(caught.value)


def test_tagged_words_are_refused_for_other_tasks(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("EU B-ORG\n")
    with pytest.raises(DataError, match="with problem: token_classification; set it"):
        load_task(FileTask(train=str(path), validation=str(path)), tmp_path / "cache")
