"""Rows of a command line, of a stream and of files, as strangers write them."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.predict.files import rows_of_file
from pipeline.predict.standard_input import Stream
from pipeline.predict.texts import rows_of_texts
from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import Classification, MultipleChoice, QuestionAnswering, TokenClassification
from schemas.results.export import TaskForm
from stages.predictions.rows import Row

ONE = TaskForm(problem=Classification(), text="text_a")
PAIR = TaskForm(problem=Classification(), text="text_a", pair="text_b", has_pair=True)
EITHER = TaskForm(problem=Classification(), text="text_a", pair="text_b", has_pair=None)
QUESTION = TaskForm(problem=QuestionAnswering(), text="question", pair="context", has_pair=True)
CHOICE = TaskForm(problem=MultipleChoice(), text="passage", pair="question", has_pair=True)
TAGS = TaskForm(problem=TokenClassification(), text="tokens")


def streamed(content: bytes, form: TaskForm = ONE, **options: Any) -> list[Row]:
    """Return the rows of a stream that ends after this content."""
    return [row for chunk in chunks_of(content, form, **options) for row in chunk]


def chunks_of(content: bytes, form: TaskForm = ONE, **options: Any) -> Iterator[list[Row]]:
    reader, writer = os.pipe()
    thread = threading.Thread(target=_write, args=(writer, content))
    thread.start()
    try:
        yield from Stream(reader, form, **options).chunks()
    finally:
        os.close(reader)
        thread.join()


def _write(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        try:
            file.write(content)
            file.flush()
        except BrokenPipeError:
            pass


def texts(rows: list[Row]) -> list[tuple[int, str | None]]:
    return [(row.number, row.text) for row in rows]


class TestStream:
    def test_a_text_a_line_whatever_its_line_ends_and_blank_lines_keep_their_place(self) -> None:
        rows = streamed(codecs.BOM_UTF8 + "good\r\n\r\nnäive\nlast without an end".encode())
        assert texts(rows) == [(1, "good"), (2, ""), (3, "näive"), (4, "last without an end")]

    def test_nothing_is_no_row_and_blank_lines_are_rows_of_text(self) -> None:
        assert streamed(b"") == []
        assert texts(streamed(b"\n\n")) == [(1, ""), (2, "")]
        assert texts(streamed(b"\ngood\n")) == [(1, ""), (2, "good")]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp1252"])
    def test_other_encodings(self, encoding: str) -> None:
        rows = streamed("grün\nblau\n".encode(encoding), encoding=encoding if encoding == "cp1252" else None)
        assert texts(rows) == [(1, "grün"), (2, "blau")]

    def test_lines_of_json_if_the_first_is_an_object(self) -> None:
        content = b'\n{"id": 7, "text": "good"}\n\n{"text": null, "id": 8}\n{"id": 9, "text": ["a", "b"]}\n'
        rows = streamed(content, kept=("id",))
        assert texts(rows) == [(2, "good"), (4, None), (5, "a b")]
        assert [row.kept for row in rows] == [{"id": 7}, {"id": 8}, {"id": 9}]

    def test_a_text_in_braces_is_text(self) -> None:
        assert texts(streamed(b"{smile} good\n{}x\n")) == [(1, "{smile} good"), (2, "{}x")]

    @pytest.mark.parametrize(
        ("form", "content", "expected"),
        [
            (PAIR, '{"text_a": "a", "text_b": "b"}', Row(1, "a", "b")),
            (PAIR, '{"Text_A ": "a", "TEXT_B": "b"}', Row(1, "a", "b")),
            (EITHER, '{"text": "a"}', Row(1, "a")),
            (EITHER, '{"text": "a", "text_b": "b"}', Row(1, "a", "b")),
            (QUESTION, '{"context": "c", "question": "q"}', Row(1, "q", "c")),
            (
                CHOICE,
                '{"passage": "p", "question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}}',
                Row(1, "p", "q", choices=("x", "y")),
            ),
            (TAGS, '{"tokens": ["a", "b"]}', Row(1, "a b", words=("a", "b"))),
            (TAGS, '{"text": "[1] a"}', Row(1, "[1] a")),
        ],
    )
    def test_columns_are_found_as_tasks_find_them(self, form: TaskForm, content: str, expected: Row) -> None:
        assert streamed(content.encode(), form) == [expected]

    def test_columns_can_be_named_and_lead_into_objects(self) -> None:
        content = b'{"a": {"first": "x"}, "b": "y"}\n'
        assert streamed(content, PAIR, given=("a.first", "b")) == [Row(1, "x", "y")]

    @pytest.mark.parametrize(
        ("form", "content", "message", "before"),
        [
            (ONE, b'{"text": "a"}\n{"text": "b"\n', r"standard input: line 2 is no JSON object: \{.text.: .b.", 1),
            (ONE, b'{"text": "a"}\n\n[1]\n', "line 3 is no JSON object", 1),
            (ONE, b'{"text": "a"}\n{"text": 5}\n', "line 2: column 'text' is the number 5, not text", 1),
            (ONE, b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2 holds half of a surrogate pair", 1),
            (ONE, b'{"body": "a"}\n', "the columns are body: name those to read with --text-columns TEXT", 0),
            (PAIR, b'{"text_a": "a"}\n', "a row of this task has a pair of texts, and the columns are text_a", 0),
            (PAIR, b"one text\n", "have a pair of texts: give each as a JSON object on a line", 0),
            (ONE, b'[{"text": "a"}]\n', "is one JSON array; write each row on a line", 0),
            (ONE, b"good\n\xff\xfe broken\n", "line 2 is not UTF-8; give its encoding, such as --encoding cp1252", 1),
            (ONE, b"good\nb\0d\n", "line 2 holds a NUL byte", 1),
            (ONE, gzip.compress(b"good\n", mtime=0), "standard input is a gzip file", 0),
            (ONE, b"good\n" + b"x" * (3 << 20), "line 2 is longer than 2 MB", 1),
        ],
    )
    def test_what_cannot_be_read_is_named_by_its_line_and_the_rows_before_it_are_kept(
        self, form: TaskForm, content: bytes, message: str, before: int
    ) -> None:
        rows: list[Row] = []
        with pytest.raises(DataError, match=message):
            rows.extend(row for chunk in chunks_of(content, form) for row in chunk)
        assert len(rows) == before

    def test_a_line_is_answered_before_the_next_is_written(self) -> None:
        reader, writer = os.pipe()
        chunks = Stream(reader, ONE).chunks()
        for number, line in enumerate(("good", "bad"), start=1):
            os.write(writer, f"{line}\n".encode())
            assert texts(next(chunks)) == [(number, line)]
        os.write(writer, b"half a li")
        os.write(writer, b"ne\n")
        assert texts(next(chunks)) == [(3, "half a line")]
        os.close(writer)
        assert list(chunks) == []
        os.close(reader)

    def test_an_endless_stream_is_read_no_faster_than_it_is_answered(self) -> None:
        reader, writer = os.pipe()
        written = [0]

        def write_on() -> None:
            with os.fdopen(writer, "wb", buffering=0) as file:
                try:
                    while True:
                        written[0] += file.write(b"the film is good\n" * 1000) or 0
                except BrokenPipeError:
                    pass

        thread = threading.Thread(target=write_on)
        thread.start()
        chunks = Stream(reader, ONE).chunks()
        sizes = [len(next(chunks)) for _ in range(5)]
        os.close(reader)
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert max(sizes) <= 1000
        assert written[0] < 17 * 1000 * 100


Writer = Callable[[Path, list[dict[str, Any]]], None]


def _csv(separator: str, encoding: str) -> Writer:
    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        pd.DataFrame(rows).to_csv(path, index=False, sep=separator, encoding=encoding, lineterminator="\r\n")

    return write


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


FORMATS: dict[str, Writer] = {
    "rows.csv": _csv(";", "utf-8-sig"),
    "rows.tsv": _csv("\t", "utf-16"),
    "rows.csv.gz": _csv(",", "utf-8"),
    "rows.jsonl.gz": _jsonl,
    "rows.parquet": lambda path, rows: pd.DataFrame(rows).to_parquet(path),
}


class TestFile:
    @pytest.mark.parametrize("name", FORMATS)
    def test_rows_of_every_format(self, name: str, tmp_path: Path) -> None:
        rows = [
            {"id": "1", "text": "grün, und gut", "label": "x"},
            {"id": "2", "text": None, "label": "x"},
            {"id": "3", "text": "last", "label": ""},
        ]
        FORMATS[name](tmp_path / name, rows)
        (chunk,) = rows_of_file(str(tmp_path / name), ONE, kept=("id",), store=tmp_path / "no store")
        assert [(row.number, row.text or "", row.kept) for row in chunk] == [
            (1, "grün, und gut", {"id": "1"}),
            (2, "", {"id": "2"}),
            (3, "last", {"id": "3"}),
        ]
        assert not (tmp_path / "no store").exists()

    def test_lines_of_text_for_tags_too_unless_they_are_sentences_of_words(self, tmp_path: Path) -> None:
        plain, sentences = tmp_path / "plain.txt", tmp_path / "conll.txt"
        plain.write_text("Ada was born.\nin London.\n", encoding="utf-8")
        sentences.write_text("Ada B-PER\nwas O\n\nLondon B-LOC\nis O\n", encoding="utf-8")
        assert [row.text for chunk in rows_of_file(str(plain), TAGS) for row in chunk] == [
            "Ada was born.",
            "in London.",
        ]
        assert [row.words for chunk in rows_of_file(str(sentences), TAGS) for row in chunk] == [
            ("Ada", "was"),
            ("London", "is"),
        ]

    def test_lists_that_a_table_holds_as_text(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("passage,question,choices\np,q,\"['x', 'y']\"\n", encoding="utf-8")
        assert list(rows_of_file(str(path), CHOICE)) == [[Row(1, "p", "q", choices=("x", "y"))]]

    def test_squads_own_layout(self, tmp_path: Path) -> None:
        question = {"question": "who?", "answers": [], "id": "1"}
        content = {"data": [{"title": "t", "paragraphs": [{"context": "Ada.", "qas": [question]}]}]}
        (tmp_path / "dev.json").write_text(json.dumps(content), encoding="utf-8")
        assert list(rows_of_file(str(tmp_path / "dev.json"), QUESTION)) == [[Row(1, "who?", "Ada.")]]

    def test_a_large_file_comes_a_thousand_rows_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        _jsonl(path, [{"text": f"number {number}"} for number in range(2500)])
        chunks = list(rows_of_file(str(path), ONE))
        assert [len(chunk) for chunk in chunks] == [1000, 1000, 500]
        assert [row.number for chunk in chunks for row in chunk] == [*range(1, 2501)]
        assert chunks[-1][-1].text == "number 2499"

    @pytest.mark.parametrize(
        ("name", "content", "options", "message"),
        [
            ("rows.jsonl", '{"text": "a"}\n{"text": "b"\n', {}, "--file: .*rows.jsonl: line 2 is not valid JSON"),
            ("rows.csv", "text,label\na,b,c\n", {}, "line 2 .row 1. has 3 fields but line 1 names 2 columns"),
            (
                "rows.csv",
                "body,label\na,b\n",
                {},
                "the columns are body, label: name those to read with --text-columns",
            ),
            ("rows.csv", "text,label\na,b\n", {"given": ("txet",)}, r"no column 'txet' \(did you mean text\?\)"),
            ("rows.csv", "text,label\na,b\n", {"given": ("text", "label")}, "a row has one text; name one column"),
            (
                "rows.csv",
                "text,label\na,b\n",
                {"kept": ("id",)},
                "there is no column 'id'; the columns are text, label",
            ),
            ("rows.jsonl", '{"text": 1}\n{"text": 2}\n', {}, "row 1: column 'text' is the number 1, not text"),
            ("rows.xlsx", "x", {}, "is a spreadsheet"),
            ("rows.csv", "", {}, "is empty; give a file with rows"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_one_message(
        self, name: str, content: str, options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            list(rows_of_file(str(tmp_path / name), ONE, **options))

    def test_a_file_in_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_bytes("text\ngrün\n".encode("cp1252"))
        with pytest.raises(DataError, match="is not UTF-8"):
            list(rows_of_file(str(tmp_path / "rows.csv"), ONE))
        assert list(rows_of_file(str(tmp_path / "rows.csv"), ONE, encoding="cp1252")) == [[Row(1, "grün")]]


class TestTexts:
    def test_each_text_is_a_row_with_its_second_text_or_one_for_all(self) -> None:
        assert rows_of_texts(ONE, ["a", ""], [], []) == [Row(1, "a"), Row(2, "")]
        assert rows_of_texts(PAIR, ["a", "b"], ["c", "d"], []) == [Row(1, "a", "c"), Row(2, "b", "d")]
        assert rows_of_texts(QUESTION, ["a", "b"], ["c"], []) == [Row(1, "a", "c"), Row(2, "b", "c")]
        assert rows_of_texts(CHOICE, ["p"], ["q"], ["x", "y"]) == [Row(1, "p", "q", choices=("x", "y"))]

    @pytest.mark.parametrize(
        ("form", "given", "message"),
        [
            (PAIR, (["a"], [], []), 'have a pair of texts: give the second text with --pair "…"'),
            (QUESTION, (["a"], [], []), "have a question and its context: give the second text"),
            (ONE, (["a"], ["b"], []), "--pair: rows of this task have one text; leave it out"),
            (PAIR, (["a", "b", "c"], ["d", "e"], []), "--pair is given 2 times for 3 texts"),
            (CHOICE, (["p"], ["q"], ["x"]), "give --choice A --choice B"),
            (ONE, (["a"], [], ["x", "y"]), "have one text: give no --choice"),
            (ONE, (["a\udcff"], [], []), "is not text in UTF-8"),
        ],
    )
    def test_other_texts_than_the_tasks_are_refused(
        self, form: TaskForm, given: tuple[list[str], list[str], list[str]], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            rows_of_texts(form, *given)

    def test_the_name_of_a_file_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("text\na\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="is a file: read its rows with --file"):
            rows_of_texts(ONE, [str(path)], [], [])
