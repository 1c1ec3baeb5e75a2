"""A general corpus: its sources, the rows that stay, their draw, and errors about bad rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from pydantic import ValidationError

from schemas.core.errors import DataError
from schemas.data.corpus import GeneralCorpus
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.leaks import leaks_of
from stages.data.corpus.prepare import load_corpus, read_summary
from tests.support.toys import write_rows
from tests.torture.damage import Touch


def prepared(source: Any, **fields: Any) -> GeneralCorpus:
    return GeneralCorpus.model_validate({"sources": source, "held_out_rows": 1, **fields})


def files(*paths: Path, **fields: Any) -> dict[str, Any]:
    return {"kind": "files", "paths": [str(path) for path in paths], **fields}


def texts(corpus: GeneralCorpus, folder: Path) -> list[str]:
    rows = load_corpus(corpus, folder / "cache")
    return sorted([*rows.train["text"][:], *rows.held_out["text"][:]])


def numbered(path: Path, *numbers: int) -> Path:
    return write_rows(path, [{"text": f"row {number}"} for number in numbers])


def refused(source: Any, folder: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_corpus(prepared(source, **fields), folder / "cache")
    return str(caught.value)


# Sources


def test_folder_is_read_as_its_files_of_one_format_in_name_order(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    numbered(folder / "b" / "two.jsonl", 3)
    numbered(folder / "a.jsonl", 1, 2)
    content = b'{"text": "row 4"}\n'
    for name, packed in [
        ("c.jsonl.gz", gzip.compress(content, mtime=0)),
        ("d.jsonl.bz2", bz2.compress(content.replace(b"4", b"5"))),
        ("e.jsonl.xz", lzma.compress(content.replace(b"4", b"6"))),
        (".hidden.jsonl", b"not JSON"),
        ("meta.json", b'{"about": "the data"}'),
        ("LICENCE.txt", b"Free."),
    ]:
        (folder / name).write_bytes(packed)
    expected = [f"row {number}" for number in range(1, 7)]
    assert texts(prepared(str(folder)), tmp_path) == expected
    assert texts(prepared([f"{folder}/*.jsonl*"]), tmp_path) == [*expected[:2], *expected[3:]]
    assert texts(prepared(f"{folder}/**/*.jsonl*"), tmp_path) == expected
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert texts(prepared(str(moved)), tmp_path) == expected


def test_ambiguous_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    numbered(folder / "a.jsonl", 1, 2)
    pq.write_table(pa.table({"text": ["x"]}), folder / "b.parquet")
    message = refused(str(folder), tmp_path)
    assert "holds files of several formats (.jsonl, .parquet)" in message
    assert f"such as {folder}/*.jsonl" in message
    (tmp_path / "empty").mkdir()
    assert "holds no text; give a folder with files of" in refused(str(tmp_path / "empty"), tmp_path)
    message = refused(str(tmp_path / "none" / "*.jsonl"), tmp_path)
    assert "there is no file" in message


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves its files to the collector
def test_saved_data_set_is_read_unchanged(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["one", "two", " ", "three"], "label": [0, 1, 0, 1]})
    rows.select([3, 1, 0, 2]).save_to_disk(tmp_path / "saved", num_shards=2)
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "splits")
    for name in ("saved", "splits", "splits/test"):
        assert texts(prepared(str(tmp_path / name)), tmp_path) == ["one", "three", "two"]
    assert "there is no column 'body'" in refused(files(tmp_path / "saved", column="body"), tmp_path)
    message = refused(files(tmp_path / "saved", column="label"), tmp_path)
    assert "column 'label' holds int64, not text" in message
    DatasetDict(test=rows).save_to_disk(tmp_path / "test only")
    message = refused(str(tmp_path / "test only"), tmp_path)
    assert "holds the splits test; give the folder of one of them" in message


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damaged_saved_data_set_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    Dataset.from_dict({"text": ["one", "two", "three"] * 50}).save_to_disk(saved)
    canary = tmp_path / "canary"
    (saved / "dataset_info.json").write_bytes(pickle.dumps(Touch(str(canary))))
    (saved / "saved.py").write_text(f"open({str(canary)!r}, 'w')")
    assert len(texts(prepared(str(saved)), tmp_path)) == 3
    assert not canary.exists()
    arrow = saved / "data-00000-of-00001.arrow"
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[:300])
    assert "cannot be read" in refused(str(saved), tmp_path)
    table = pa.table({"text": ["a" * 1000] * 100})
    with (
        pa.OSFile(str(arrow), "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(table)
    assert "its buffers are compressed" in refused(str(saved), tmp_path)
    for state in ('{"_data_files": [{"filename": "../other.arrow"}]}', "[]", "{", '{"_data_files": 3}'):
        (saved / "state.json").write_text(state)
        assert "state.json is not what save_to_disk writes" in refused(str(saved), tmp_path)


def test_short_forms_of_sources_and_cuts_are_expanded() -> None:
    corpus = prepared(["docstrings", "./text", "owner/name"], cut="pairs")
    assert [source.kind for source in corpus.sources] == ["docstrings", "files", "hub"]
    assert corpus.cut.kind == "pairs"
    assert prepared("./text") == prepared(files(Path("./text")) | {"paths": ["./text"]})
    for wrong, words in [
        ("text", "is no source of text; give docstrings"),
        ({"kind": "hub", "id": "a/b", "streaming": True}, "a sample needs its size"),
        ({"kind": "hub", "id": "a/b", "max_rows": 5}, "set streaming to true"),
        (["docstrings", {**files(Path("a")), "weight": 2}], r"sources\[0\].weight: is missing"),
    ]:
        with pytest.raises(ValidationError, match=words):
            prepared(wrong)


# Selection of rows


ROWS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all, nor does the owner of the dog.",
    "the quick brown fox JUMPS over the lazy dog and the dog does not mind it at all nor does the owner of the dog",
    "The quick brown fox jumps over the lazy dog, and the cat does not mind it at all, nor does the owner of the dog.",
    "Nothing of the kind has ever been seen by anybody in this part of the country.",
    " ",
    "Another row.",
    "Another row",
]


@pytest.mark.parametrize(
    ("duplicates", "left", "exact", "near"), [("keep", 6, 0, 0), ("exact", 4, 2, 0), ("near", 3, 2, 1)]
)
def test_duplicates_are_dropped_and_counted(tmp_path: Path, duplicates: str, left: int, exact: int, near: int) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in ROWS])
    corpus = prepared(files(path), duplicates=duplicates, seed=2)
    result = texts(corpus, tmp_path)
    (source,) = read_summary(corpus, tmp_path / "cache").sources
    assert (source.rows, source.blank, source.duplicates, source.near_duplicates) == (7, 1, exact, near)
    assert source.train + source.held_out == len(result) == left
    assert {ROWS[0], ROWS[3], ROWS[5]} <= set(result)
    assert (ROWS[2] in result) == (duplicates != "near")
    train = load_corpus(corpus, tmp_path / "cache").train["text"][:]
    assert source.characters == sum(map(len, train))


def test_repeated_row_is_not_both_held_out_and_trained_on(tmp_path: Path) -> None:
    texts = [f"{word} {number % 3}." for number in range(12) for word in ("Row", "row", "ROW")]
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    for seed in range(4):
        rows = load_corpus(prepared(files(path), duplicates="keep", seed=seed), tmp_path / "cache")
        train, held = ({text.lower() for text in part["text"]} for part in (rows.train, rows.held_out))
        assert len(held) == 1
        assert not train & held
        assert len(rows.train) == 24


def test_earlier_source_keeps_rows_that_a_later_one_repeats(tmp_path: Path) -> None:
    first, second = numbered(tmp_path / "a.jsonl", 1, 2, 3), numbered(tmp_path / "b.jsonl", 3, 4, 5)
    corpus = prepared([files(first), files(second)])
    assert texts(corpus, tmp_path) == [f"row {number}" for number in range(1, 6)]
    earlier, later = read_summary(corpus, tmp_path / "cache").sources
    assert (earlier.rows, earlier.duplicates, later.rows, later.duplicates) == (3, 0, 3, 1)
    assert load_corpus(corpus, tmp_path / "cache").source_rows == (earlier.train, later.train)
    weighted = prepared([files(first, weight=1), files(first, weight=2)])
    message = refused(weighted.model_dump()["sources"], tmp_path)
    assert "no row of" in message
    assert "3 duplicates" in message


VALIDATION = "the film was a great success with the old men of this town and with nobody else"


def test_rows_with_a_validation_text_are_dropped_and_reported(tmp_path: Path) -> None:
    task = tmp_path / "task"
    write_rows(task / "train.jsonl", [{"text_a": f"t{n}", "label": n % 2} for n in range(4)])
    validation = [{"text_a": VALIDATION, "label": 0}, {"text_a": "row 2", "label": 1}]
    write_rows(task / "validation.jsonl", validation)
    rows = [{"text": text} for text in ("row 1", "row 2", f"He wrote: {VALIDATION.title()}!", "row 3")]
    path = write_rows(tmp_path / "a.jsonl", rows)
    plain = prepared(files(path))
    without = prepared(files(path), decontaminate=[str(task)])
    assert texts(without, tmp_path) == ["row 1", "row 2", "row 3"]
    summary = read_summary(without, tmp_path / "cache")
    assert summary.sources[0].leaks == 1
    (leak,) = summary.leaks
    assert (leak.task, leak.row, leak.source) == ("task", 3, str(path))
    assert leak.text.startswith("He wrote: The Film")
    # The other direction: nothing is dropped, but the losses of the task are counted.
    corpus = load_corpus(plain.model_copy(update={"seed": 3}), tmp_path / "cache")
    (wanted,) = without.decontaminate
    result = leaks_of(wanted, corpus.train, tmp_path / "cache")
    assert (result.rows, result.texts, result.too_short) == (1, 1, 1)
    assert result.share == pytest.approx(1 / 3)
    assert corpus_digest(without) != corpus_digest(plain)
    longer = wanted.model_copy(update={"max_length": 9})
    assert corpus_digest(without.model_copy(update={"decontaminate": (longer,)})) == corpus_digest(without)
    write_rows(task / "validation.jsonl", [*validation, {"text_a": "new", "label": 1}])
    assert read_summary(without, tmp_path / "cache") == read_summary(without, tmp_path / "cache")
    assert read_summary(without, tmp_path / "cache").digest != summary.digest


# Draws


def documents(path: Path, lengths: list[int]) -> Path:
    rows = [
        {"text": f"document {number} row {row}", "doc": f"d{number}"}
        for number, length in enumerate(lengths)
        for row in range(length)
    ]
    return write_rows(path, rows)


def test_passages_of_documents_are_drawn_together(tmp_path: Path) -> None:
    path = documents(tmp_path / "a.jsonl", [70, 3, 5, 40])
    corpus = prepared(files(path, document="doc"), cut="sequences", held_out_rows=6, seed=1)
    rows = load_corpus(corpus, tmp_path / "cache")
    held = rows.held_out["text"][:]
    passages = [
        [f"document {number} row {row}" for row in range(start, min(start + 32, length))]
        for number, length in enumerate([70, 3, 5, 40])
        for start in range(0, length, 32)
    ]
    whole = [passage for passage in passages if passage[0] in held]
    assert held == [text for passage in whole for text in passage]
    assert 6 <= len(held) < 6 + 32
    train, begins = rows.train["text"][:], rows.train["begins"][:]
    assert len(train) == 118 - len(held)
    expected = [
        position == 0
        or int(train[position - 1].split()[3]) + 1 != int(text.split()[3])
        or train[position - 1].split()[1] != text.split()[1]
        for position, text in enumerate(train)
    ]
    assert begins == expected


def test_blank_lines_end_the_documents_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\nfour\n  \nfive\n")
    (tmp_path / "b.txt").write_text("six\nseven\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    rows = load_corpus(prepared(files(*paths), cut="sequences", seed=1), tmp_path / "cache")
    begins = {"one", "three", "five", "six"}
    train = dict(zip(rows.train["text"][:], rows.train["begins"][:], strict=True))
    held = rows.held_out["text"][:]
    assert len(train) + len(held) == 7
    assert all(starts == (text in begins) for text, starts in train.items())


def test_document_continues_across_batches(tmp_path: Path) -> None:
    # Read a thousand rows at a time; only the passage that is held out interrupts the one document.
    (tmp_path / "a.txt").write_text("".join(f"line {number}\n" for number in range(2500)))
    rows = [{"text": f"row {number}", "doc": 7} for number in range(2500)]
    path = write_rows(tmp_path / "b.jsonl", rows)
    for source in (files(tmp_path / "a.txt"), files(path, document="doc")):
        train = load_corpus(prepared(source, cut="sequences"), tmp_path / "cache").train
        assert len(train) == 2500 - 32
        assert sum(train["begins"]) == 2


def test_rows_are_read_and_written_once(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", *range(20))
    corpus = prepared(files(path))
    before = load_corpus(corpus, tmp_path / "cache")
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")}
    again = load_corpus(corpus, tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")} == stamps
    assert again.train["text"][:] == before.train["text"][:]
    # A different cut or weight keeps the rows; a different seed does not.
    load_corpus(prepared(files(path, weight=3), cut="sentences", max_length=9), tmp_path / "cache")
    folders = tmp_path / "cache" / "corpora"
    assert len(list(folders.iterdir())) == 1
    load_corpus(prepared(files(path), seed=1), tmp_path / "cache")
    assert len(list(folders.iterdir())) == 2


@pytest.mark.parametrize("most", [None, 5])
def test_rows_do_not_depend_on_the_batch_size(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": f"row {number % 30}"} for number in range(40)])
    corpus = prepared(files(path), held_out_rows=4, duplicates="keep", max_rows=most)
    result = []
    for at_once in (1 << 22, 3):
        monkeypatch.setattr("stages.storage.mapped_columns.AT_ONCE", at_once)
        rows = load_corpus(corpus, tmp_path / f"cache {at_once}")
        result.append((rows.train["text"][:], rows.held_out["text"][:]))
    assert result[0] == result[1]
    train, held_out = result[0]
    assert not set(train) & set(held_out)
    assert len(train) == 5 if most else len(train) > 30


def test_digest_changes_with_everything_that_changes_the_sequences(tmp_path: Path) -> None:
    path = documents(tmp_path / "a.jsonl", [2, 2])
    corpora = [
        prepared(files(path)),
        prepared(files(path), cut="sentences"),
        prepared(files(path), cut="sequences"),
        prepared(files(path, document="doc"), cut="sequences"),
        prepared(files(path), cut={"kind": "sequences", "across_documents": True}),
        prepared(files(path), cut="pairs"),
        prepared(files(path), cut={"kind": "pairs", "short_probability": 0}),
        prepared(files(path), duplicates="near"),
        prepared(files(path), duplicates="keep"),
        prepared(files(path, weight=1)),
        prepared(files(path, weight=2)),
        prepared(files(path), max_length=9),
        prepared(files(path), max_rows=2),
        prepared(files(path), held_out_rows=2),
    ]
    assert len({corpus_digest(corpus) for corpus in corpora}) == len(corpora)


def test_version_of_sentence_splitting_is_part_of_the_digest_only_where_sentences_are_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = documents(tmp_path / "a.jsonl", [2, 2])
    corpora = {cut: prepared(files(path), cut=cut) for cut in ("rows", "sentences", "sequences", "pairs")}
    before = {cut: corpus_digest(corpus) for cut, corpus in corpora.items()}
    monkeypatch.setattr("stages.data.corpus.digests.SENTENCES_VERSION", 1000)
    changed = {cut for cut, corpus in corpora.items() if corpus_digest(corpus) != before[cut]}
    assert changed == {"sentences", "sequences", "pairs"}


# Bad rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "x"}, {"text": None}], "row 2: column 'text' is missing or null; give text"),
        ([{"text": "x"}] * 1200 + [{"txt": "y"}], "row 1201: column 'text' is missing or null"),
        ([{"text": "x"}, {"text": "y" * 2_097_153}], "line 2 is longer than 2 MB"),
        ([{"text": 5}, {"text": 6}], "row 1: column 'text' holds the number 5, not text"),
        ([{"body": "x"}], "there is no column 'text'; the columns are body"),
        ([{"text": ""}, {"text": " \t"}], "column 'text' is empty in every row"),
    ],
)
def test_error_names_file_and_row(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    path = write_rows(tmp_path / "bad.jsonl", rows)
    message = refused([files(numbered(tmp_path / "a.jsonl", 1, 2)), files(path)], tmp_path)
    assert words in message
    assert message.startswith(f"general_corpus.sources: {path}")


def test_error_names_a_missing_document_column(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 1, 2)
    message = refused(files(path, document="doc"), tmp_path, cut="pairs")
    assert message == f"general_corpus.sources: {path}: there is no column 'doc'; the columns are text"
