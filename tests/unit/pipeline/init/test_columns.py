"""Columns and kinds of tasks, guessed from tables as strangers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.init.columns import Columns
from pipeline.init.data import columns_of, read_rows, source_of
from schemas.core.errors import ConfigError, DataError

_FILMS = [
    f"Film number {n} was a {'warm' if n % 2 else 'dull'} evening;{'good' if n % 2 else 'bad'};{n % 7}"
    for n in range(60)
]


def found(path: Path, **named: str | None) -> Columns:
    source = source_of(str(path), None, named.pop("encoding", None))
    file, rows = read_rows(source, path.parent / "cache")
    return columns_of(file, rows, {"text": None, "text_pair": None, "label": None, **named})


def test_a_spreadsheets_export_with_semicolons_in_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text(
        "\n".join(["ID;Bemerkung;Sentiment;woche", *(f"{n};{row}" for n, row in enumerate(_FILMS))]), "utf-16"
    )
    assert found(path) == Columns("Bemerkung", "Sentiment", "classification")


def test_an_export_in_an_old_encoding_needs_its_name(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    text = "\n".join(["bewertung\tsterne", *(f"Übung {n} war schön und gut\t{n % 5 + 1}" for n in range(50))])
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match="UTF-8"):
        found(path)
    assert found(path, encoding="cp1252") == Columns("bewertung", "sterne", "classification")
    with pytest.raises(ConfigError, match="--encoding ansi: is not known; give 'utf-8'"):
        found(path, encoding="ansi")


def _words(n: int) -> dict[str, Any]:
    return {"tokens": ["Ann", "saw", "Rome"], "ner_tags": ["B-PER", "O", "B-LOC"], "n": n}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"premise": f"It rains in {n}.", "hypothesis": "It is wet.", "label": n % 3} for n in range(30)],
            Columns("premise", "label", "classification", "hypothesis"),
        ),
        (
            [{"comment": f"This is remark {n}", "score": n / 10, "lang": "en"} for n in range(40)],
            Columns("comment", "score", "regression"),
        ),
        (
            [{"comment": f"This is remark {n}", "toxic": n % 2, "rude": n % 3 // 2} for n in range(40)],
            Columns("comment", ("toxic", "rude"), "multi_label"),
        ),
        (
            [{"text": f"This is remark {n}", "labels": ["a", "b"][: n % 3]} for n in range(40)],
            Columns("text", "labels", "multi_label"),
        ),
        ([_words(n) for n in range(20)], Columns("tokens", "ner_tags", "token_classification")),
        (
            [
                {"question": f"Who is {n}?", "context": "Ann is.", "answers": {"text": ["Ann"], "answer_start": [0]}}
                for n in range(20)
            ],
            Columns("question", "answers", "question_answering", "context"),
        ),
        (
            [{"id": n, "was": f"A long remark, number {n}", "gruppe": ["x", "y"][n % 2]} for n in range(20)],
            Columns("was", "gruppe", "classification"),
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_are_found_by_names_and_by_values(
    tmp_path: Path, rows: list[dict[str, Any]], expected: Columns, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert found(path) == expected


def test_conll_and_squad_have_known_columns_and_plain_text_has_none(tmp_path: Path) -> None:
    words, squad, plain = (tmp_path / name for name in ("a.conll", "a.json", "a.txt"))
    words.write_text("Ann B-PER\nsaw O\n\nRome B-LOC\n", encoding="utf-8")
    squad.write_text(json.dumps({"version": "1.1", "data": []}), encoding="utf-8")
    plain.write_text("a line\nanother line\n", encoding="utf-8")
    assert found(words) == Columns("tokens", "tags", "token_classification")
    assert found(squad) == Columns("question", "answers", "question_answering", "context")
    with pytest.raises(DataError, match=r"lines of text without labels.*--corpus .*a\.txt"):
        found(plain)


def test_what_cannot_be_guessed_is_asked_for_by_its_option(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["was,gruppe,art", *(f"Ein langer Text {n},{n % 2},{'xyz'[n % 3]}" for n in range(30))]))
    with pytest.raises(ConfigError, match=r"columns are was, gruppe, art; likely: gruppe, art; name it with --label"):
        found(path)
    assert found(path, label="art") == Columns("was", "art", "classification")
    with pytest.raises(DataError, match=r"no column 'arte' \(did you mean art\?\)"):
        found(path, label="arte")
    with pytest.raises(ConfigError, match="which column is the text"):
        found(_numbers(tmp_path / "n.csv"), label="label")


def _numbers(path: Path) -> Path:
    path.write_text("\n".join(["a,b,label", *(f"{n},{n * 2},{n % 2}" for n in range(30))]))
    return path
