"""Comma- and tab-separated files of other programs are read as intended with a report, or refused by line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from schemas.core.errors import DataError
from schemas.data.file_format import FileFormat
from schemas.data.tasks import FileTask
from stages.data.corpus.prepare import load_corpus, read_summary
from stages.data.files.read_request import Reading
from stages.data.readers.files import FileRows, read_file
from stages.data.tasks.load import load_task
from tests.support.tasks import corpus

Rows = list[tuple[str, ...]]
TEXTS = ['He said "it is great" twice', "plain", "a\tb", "two\nlines", '"whole"', "a, b"]
FRAME = pd.DataFrame({"text": TEXTS, "label": ["x", "y"] * 3})


def read(path: Path, content: str | bytes, **settings: Any) -> FileRows:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    reading = Reading(("text", "label"), format=FileFormat(**settings))
    return read_file(path, path.parent / "cache", "task.train", reading)


def rows_of(file_rows: FileRows) -> Rows:
    return list(zip(file_rows.rows["text"], file_rows.rows["label"], strict=True))


def refused(path: Path, content: str | bytes, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, content, **settings)
    message = str(caught.value)
    assert message.startswith(f"task.train: {path}")
    return message.removeprefix(f"task.train: {path}")


# Quotes between tabs


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("chosen", [[0], [0, 1], [4, 1], [0, 1, 2, 3, 4, 5], [2, 1], [3, 1]])
@pytest.mark.parametrize("index", [False, True])
def test_tab_separated_files_written_by_pandas_are_read_unchanged(
    tmp_path: Path, quoting: Any, chosen: list[int], index: bool
) -> None:
    written = FRAME.iloc[chosen].to_csv(sep="\t", index=index, quoting=quoting)
    file_rows = read(tmp_path / "a.tsv", written)
    assert rows_of(file_rows) == [(TEXTS[index], "xy"[index % 2]) for index in chosen]
    assert "read with quotes" in file_rows.remarks[0]
    assert "format.quotes: false" in file_rows.remarks[0]


def test_tab_separated_files_written_by_excel_are_read_without_quotes(tmp_path: Path) -> None:
    written = 'text\tlabel\r\n"Great, really"\tx\r\n"no, not"\ty\r\nfine\tx\r\n'
    file_rows = read(tmp_path / "a.tsv", written)
    assert rows_of(file_rows) == [("Great, really", "x"), ("no, not", "y"), ("fine", "x")]


@pytest.mark.parametrize(
    ("texts", "remark_text"),
    [
        (['"open', "no end"], ""),
        (['"Great" he said', 'so "what" now', "x"], ""),
        (['"open', 'closes"'], ""),  # as quotes they would enclose the other's label
        (['"Great film ."', "no, end", "x"], "they enclose 1 of the 1 fields"),
        (['"He ""said"" so"', 'it is 5" long'], "they enclose 1 of the 1 fields"),
        (['"He ""said"" so"', '"a ""b"""', 'it is 5" long'], "they enclose 2 of the 2 fields"),
        (['"He ""said"" so"', '"open'], "they enclose 1 of the 2 fields"),
    ],
)
def test_literal_quotes_in_glue_files_are_kept(tmp_path: Path, texts: list[str], remark_text: str) -> None:
    written = "text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts)
    file_rows = read(tmp_path / "a.tsv", written)
    assert rows_of(file_rows) == [(text, "x") for text in texts]
    assert bool(file_rows.remarks) is bool(remark_text)
    assert all(remark_text in remark and "format.quotes: true" in remark for remark in file_rows.remarks)


def test_the_recipe_determines_how_quotes_are_read(tmp_path: Path) -> None:
    written = 'text\tlabel\n"Great film ."\tx\nfine\ty\n'
    assert rows_of(read(tmp_path / "a.tsv", written, quotes=True))[0] == ("Great film .", "x")
    doubled = FRAME.iloc[[0]].to_csv(sep="\t", index=False)
    kept = ('"He said ""it is great"" twice"', "x")
    assert rows_of(read(tmp_path / "b.tsv", doubled, quotes=False)) == [kept]
    path = tmp_path / "c.tsv"
    path.write_text(written.replace("text", "text_a"))
    task = FileTask(train=str(path), validation=str(path), format=FileFormat(quotes=True))
    rows = load_task(task, tmp_path / "cache")
    assert rows.train["text"][0] == "Great film ."
    assert not rows.remarks


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ('"He said \\"hi\\", so",x\n"b",x\n', ['He said "hi", so', "b"]),  # of Spark
        ('He said \\"hi\\" so,x\n"b, c",x\n', ['He said "hi" so', "b, c"]),  # of pandas, without doubled quotes
        ('"a \\"b\\" c:\\\\",x\n', ['a "b" c:\\\\']),
        ('"in C:\\",x\n"b \\""c\\""",x\n', ["in C:\\", 'b \\"c\\"']),  # no escapes
        ("a\\n,x\n", ["a\\n"]),
    ],
)
def test_backslash_escapes_are_detected(tmp_path: Path, written: str, texts: list[str]) -> None:
    file_rows = read(tmp_path / "a.csv", "text,label\n" + written)
    assert file_rows.rows["text"][:] == texts
    assert bool(file_rows.remarks) is ('"' in texts[0])


# Unclosed quotes


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['"it is great,x', "bad film,y", "nice one,x", 'so" dull,y', "last,x"],
            "lines 2 to 5 (row 1): text follows a quote",
        ),
        (
            ['"it is great,x', "bad film,y", "nice one,x", 'so dull",y', "last,x"],
            "line 2: a quote opens a field that ends in line 5",
        ),
        (
            ["first,y", '"it is great,x', 'bad film",y', "last,x"],
            "line 3: a quote opens a field that ends in line 4",
        ),
        (["a,x", '"b,y', "c,x"], "lines 3 to 4 (row 2): a quote that opens a field is never closed"),
        (["a,x", '"b" c,y'], "line 3 (row 2): text follows a quote that closes a field"),
        (["a,x", '"' + "z\n" * 1500 + '",y'], "lines 3 to 1503 (row 2): a field spans more than 1,000 lines"),
    ],
)
def test_an_unclosed_quote_is_refused_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    assert message in refused(tmp_path / "a.csv", "\n".join(["text,label", *lines]) + "\n")


def test_an_unclosed_quote_is_detected_in_three_columns(tmp_path: Path) -> None:
    lines = [f"{number},some text,{'xy'[number % 2]}" for number in range(40)]
    lines[30:34] = ['30,"it is great,x', "31,bad film,y", '32,nice 5",x', "33,fine,y"]
    content = "\n".join(["id,text,label", *lines]) + "\n"
    assert len(rows_of(read(tmp_path / "b.csv", content, quotes=True))) == 38
    message = refused(tmp_path / "a.csv", content)
    assert "line 32: a quote opens a field that ends in line 34" in message


def test_a_quoted_field_of_many_lines_with_separators_is_refused(tmp_path: Path) -> None:
    lines = [f"a title {number},a text of it" for number in range(20)]
    lines[3], lines[15] = '"' + lines[3], lines[15].replace(",", '",')
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["title,text", *lines]) + "\n")
    with pytest.raises(DataError, match="line 5: a quote opens a field that ends in line 17"):
        read_file(path, tmp_path / "cache", "data.sources", Reading(("text",)))


def test_texts_of_several_lines_are_read_unchanged(tmp_path: Path) -> None:
    texts = ["Hello, world\nBye", "Dear John,\nI am, fine\nBye,\n", "one\n\ntwo", "a,x b\nc", "x"]
    frame = pd.DataFrame({"text": texts, "label": ["x", "y", "x", "y", "x"]})
    file_rows = read(tmp_path / "a.csv", frame.to_csv(index=False))
    assert rows_of(file_rows) == list(zip(texts, frame["label"], strict=True))
    assert not file_rows.remarks


def test_a_quote_inside_an_unquoted_field_is_literal(tmp_path: Path) -> None:
    file_rows = read(tmp_path / "a.csv", 'text,label\n5" disk,x\nhe "said" so,y\n')
    assert rows_of(file_rows) == [('5" disk', "x"), ('he "said" so', "y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nb\nc,y\n", "line 3 (row 2) has 1 field but line 1 names 2 columns"),
        ("text,label\n\na,x\nb,y,z\n", "line 4 (row 2) has 3 fields but line 1 names 2 columns"),
        ("text\tlabel\na\tb\tx\n", "line 2 (row 1) has 3 fields"),
    ],
)
def test_a_row_with_a_different_number_of_fields_is_refused_by_line_and_row(
    tmp_path: Path, content: str, message: str
) -> None:
    assert message in refused(tmp_path / ("a.tsv" if "\t" in content else "a.csv"), content)


# Headers

GOOD: Rows = [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("name", "content", "remarks"),
    [
        ("a.csv", ",text,label\n0,a,x\n1,b,y\n", ["column 1 without a name is an index"]),
        ("a.csv", ",text,label\n7,a,x\n7,b,y\n", ["column 1 without a name is an index"]),
        ("a.csv", "Unnamed: 0,text,label\n0,a,x\n1,b,y\n", []),
        ("a.csv", '"text","label"\n"1","a","x"\n"2","b","y"\n', ["is an index"]),  # of R
        ("a.csv", "text,label,\na,x,\nb,y,\n", ["column 3 without a name is empty"]),
        ("a.csv", "text,label\na,x,\nb,y,\n", ["column 3 without a name is empty"]),
        ("a.csv", "text,label\na,x\n,\n\nb,y\n,\n", ["2 rows without a value"]),
        ("a.csv", "text;label\r\na;x\r\nb;y\r\n", ["separated by semicolons"]),
        ("a.csv", "text|label\na|x\nb|y\n", ["separated by bars"]),
        ("a.csv", "text\tlabel\na\tx\nb\ty\n", ["separated by tabs"]),
        ("a.tsv", "text,label\na,x\nb,y\n", ["separated by commas"]),
        ("a.csv", "sep=;\r\ntext;label\r\na;x\r\nb;y\r\n", ["separated by semicolons"]),
        ("a.csv", "text, label\na, x\nb, y\n", ["the blank after each separator"]),
        ("a.csv", 'id,text,label\n1, "a",x\n2,b,y\n', ["blanks before fields"]),
        ("a.csv", " Text ,LABEL\na,x\nb,y\n", ["' Text ' is read as 'text'", "'LABEL'"]),
        ("a.csv", "'text','label'\na,x\nb,y\n", ["is read as 'text'"]),
        ("a.csv", b"\xef\xbb\xbftext,label\na,x\nb,y\n", []),
        ("a.csv", "text,label\ra,x\rb,y\r", []),
        ("a.csv", "text\tlabel\r\na\tx\r\nb\ty\r\n".encode("utf-16"), ["UTF-16", "by tabs"]),
        ("a.jsonl", '{"Text": "a", "label": "x"}\n{"Text": "b", "label": "y"}', ["'Text'"]),
        ("a.jsonl", '{"text": "a", "label": "x"}\r\n\r\n{"text": "b", "label": "y"}'.encode("utf-16"), ["UTF-16"]),
    ],
)
def test_unambiguous_variants_of_a_table_are_read_and_reported(
    tmp_path: Path, name: str, content: str | bytes, remarks: list[str]
) -> None:
    file_rows = read(tmp_path / name, content)
    assert rows_of(file_rows) == GOOD
    shown = " | ".join(file_rows.remarks)
    assert all(word in shown for word in remarks), shown
    assert bool(shown) is bool(remarks)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("a,x\nb,y\n", {"columns": ("text", "label")}),
        ("text,label\na,x\nb,y\n", {"columns": ("text", "label")}),
        ("a;x\nb;y\n", {"columns": ("text", "label")}),
        ("text:label\na:x\nb:y\n", {"separator": ":"}),
        ("text,label\na,x\nb,y\n".encode("utf-16-le"), {"encoding": "utf-16-le"}),
    ],
)
def test_the_recipe_may_set_the_file_format(tmp_path: Path, content: str | bytes, settings: dict[str, Any]) -> None:
    assert rows_of(read(tmp_path / "a.csv", content, **settings)) == GOOD


def test_a_named_encoding_is_used(tmp_path: Path) -> None:
    content = "text,label\ncafé,x\n".encode("cp1252")
    assert rows_of(read(tmp_path / "a.csv", content, encoding="cp1252")) == [("café", "x")]
    message = refused(tmp_path / "a.csv", content)
    assert "line 2 is not UTF-8" in message
    assert "format.encoding: cp1252" in message
    assert "iconv -f CP1252 -t UTF-8" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (",text,label\nabc,a,x\nd,b,y\n", "no name for column 1, which holds 'abc' in row 1; name the column"),
        ("text,label,,\na,x,,\nb,y,,note\n", "no name for column 4, which holds 'note' in row 2"),
        ("a good film,pos\nbad,neg\nnice,pos\n", "format.columns: [text, label]"),
        ("1\tthe cat\n0\ta dog\n", "line 1 seems to be a row, not a header"),
        ("text,text,label\na,b,x\n", "with 'text' twice"),
        (b"PK\x03\x04abc", "is a spreadsheet or a ZIP archive with another ending"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_ambiguous_files_are_refused_with_a_remedy(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refused(tmp_path / "a.csv", content)


def test_names_matching_two_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Text_a,TEXT_A,label\na,b,x\nc,d,y\n")
    with pytest.raises(DataError, match="there is no column 'text_a'"):
        load_task(FileTask(train=str(path), validation=str(path)), tmp_path / "cache")


# JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"},\n{"text": "b", "label": "y"},\n', "line 1 ends with a comma"),
        ('{"data": [{"text": "a", "label": "x"}]}', "holds rows under 'data'"),
        ('{"train": [{"text": "a"}], "test": [{"text": "a"}]}', "holds rows under 'train', 'test'"),
        ('{"text": ["a", "b"], "label": ["x", "y"]}', "is a table by columns"),
        (FRAME.to_json(), 'orient="records", lines=True'),
        (FRAME.to_json(orient="split"), 'orient="records", lines=True'),
        (FRAME.to_json(orient="index"), "holds rows under '0', '1', '2'"),
        ("{'text': 'a', 'label': 'x'}\n", "line 1 has Python's quotes, not JSON's"),
    ],
)
def test_json_without_rows_is_refused_with_a_remedy(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(tmp_path / "a.json", content)


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"text":"a","label":"x"}\r\n\r\n{"text":"b","label":"y"}\r\n',
        b'{"text":"a","label":"x"}{"text":"b","label":"y"}',
        b'{\n "text": "a",\n "label": "x"\n}\n{\n "text": "b",\n "label": "y"\n}\n',
        b'\n [{"text":"a","label":"x"},\n{"text":"b","label":"y"}]',
    ],
)
def test_json_objects_are_read_in_any_layout(tmp_path: Path, content: bytes) -> None:
    assert rows_of(read(tmp_path / "a.jsonl", content)) == GOOD


def test_mixed_types_in_a_column_of_json_lines_are_refused_by_line(tmp_path: Path) -> None:
    long = "word " * 4000
    rows = [{"text": long}] + [{"text": long, "label": 1}] * 600 + [{"text": "x", "label": 0.5}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(content) > 10 << 20
    assert read(tmp_path / "a.jsonl", content).rows["label"][599:] == [1.0, 1.0, 0.5]
    rows[-1]["label"] = "much"
    content = "".join(json.dumps(row) + "\n" for row in rows)
    message = ": line 602: column 'label' holds text, but a number in line 2"
    assert message in refused(tmp_path / "a.jsonl", content)


def test_a_list_in_a_text_column_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "word " * 4000, "label": "a"}] * 600 + [{"text": "[1] a note", "label": "b"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(content) > 10 << 20
    assert read(tmp_path / "a.jsonl", content).rows["text"][600] == "[1] a note"
    content += json.dumps({"text": "x", "label": ["b"]}) + "\n"
    message = ": line 602: column 'label' holds a list, but text in the rows before"
    assert message in refused(tmp_path / "a.jsonl", content)


# Corpora


def test_a_corpus_is_read_by_the_same_rules_and_reports_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(";Text\n" + "".join(f"{number};text {number}\n" for number in range(9)))
    config = corpus(path)
    rows = load_corpus(config, tmp_path / "cache")
    texts = {*rows.train["text"], *rows.held_out["text"]}
    assert texts == {f"text {number}" for number in range(9)}
    remarks = " | ".join(read_summary(config, tmp_path / "cache").remarks)
    assert str(path) in remarks
    assert "separated by semicolons" in remarks
    assert "'Text' is read as 'text'" in remarks
