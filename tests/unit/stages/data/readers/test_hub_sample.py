"""A sample of a hub data set: even over its files, and the same after any interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.core.errors import DataError, ServiceError
from schemas.data.corpus import GeneralCorpus
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.prepare import load_corpus
from stages.data.readers import hub, hub_sample

ROWS = [30, 4, 30, 30]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four files laid out like a repository of the hub, which it replaces."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for file, rows in enumerate(ROWS):
        columns = {"body": [f"file {file} row {row} é" for row in range(rows)], "n": [0] * rows}
        pq.write_table(pa.table(columns), folder / f"train-{file:05d}-of-00004.parquet")
    monkeypatch.setattr(hub, "_commit_by_hub", lambda *_: "c" * 40)
    monkeypatch.setattr(hub, "_commits", {})
    load = hub_sample.datasets.load_dataset
    monkeypatch.setattr(
        hub_sample.datasets,
        "load_dataset",
        lambda _id, config, split, revision, streaming: load(str(folder), config, split=split, streaming=streaming),
    )
    return folder


def sampled(**fields: Any) -> GeneralCorpus:
    source = {"kind": "hub", "id": "owner/name", "streaming": True, "column": "body", **fields}
    return GeneralCorpus.model_validate({"sources": [source], "held_out_rows": 1})


def counts(corpus: GeneralCorpus, cache: Path) -> list[int]:
    rows = load_corpus(corpus, cache)
    texts = [*rows.train["text"][:], *rows.held_out["text"][:]]
    assert len(set(texts)) == len(texts)
    for file in range(4):
        numbers = sorted(int(text.split()[3]) for text in texts if text.startswith(f"file {file} "))
        assert numbers == list(range(len(numbers))), "the beginning of a file"
    return [sum(text.startswith(f"file {file} ") for text in texts) for file in range(4)]


def test_files_contribute_evenly_and_later_files_compensate_for_a_short_one(repository: Path, tmp_path: Path) -> None:
    result = counts(sampled(max_rows=40), tmp_path / "cache")
    assert sum(result) == 40
    assert result[1] == 4
    assert all(number in range(10, 19) for number in (result[0], result[2], result[3]))
    assert counts(sampled(max_rows=4000), tmp_path / "cache") == ROWS
    assert counts(sampled(max_rows=3), tmp_path / "cache").count(1) == 3


def test_limit_in_megabytes_counts_text(repository: Path, tmp_path: Path) -> None:
    corpus = sampled(max_megabytes=0.001)
    assert sum(counts(corpus, tmp_path / "cache")) in range(1000 // 16, 1000 // 15 + 5)


def test_sample_depends_on_its_size_and_the_seed(repository: Path, tmp_path: Path) -> None:
    corpora = [sampled(max_rows=3), sampled(max_rows=4), sampled(max_megabytes=1)]
    corpora.append(corpora[0].model_copy(update={"seed": 1}))
    assert len({corpus_digest(corpus) for corpus in corpora}) == 4


def test_interrupted_sample_continues_and_ends_the_same(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = sampled(max_rows=40)
    whole = load_corpus(corpus, tmp_path / "whole").train["text"][:]
    write = hub_sample.FileSample.write
    written: list[Path] = []

    def breaks(self: hub_sample.FileSample, part: Any, where: str, into: Path) -> None:
        if len(written) == 2:
            raise ServiceError("the hub was lost")
        write(self, part, where, into)
        written.append(into)

    monkeypatch.setattr(hub_sample.FileSample, "write", breaks)
    with pytest.raises(ServiceError):
        load_corpus(corpus, tmp_path / "cut")
    written.clear()

    def counted(self: hub_sample.FileSample, part: Any, where: str, into: Path) -> None:
        write(self, part, where, into)
        written.append(into)

    monkeypatch.setattr(hub_sample.FileSample, "write", counted)
    assert load_corpus(corpus, tmp_path / "cut").train["text"][:] == whole
    assert len(written) == len(ROWS) - 2, "two files were complete"


def test_finished_sample_needs_no_hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = sampled(max_rows=9, revision="c" * 40)
    first = load_corpus(corpus, tmp_path / "cache").train["text"][:]

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(hub_sample.datasets, "load_dataset", unreachable)
    assert load_corpus(corpus, tmp_path / "cache").train["text"][:] == first
    with pytest.raises(DataError, match="no sample of it is in the cache, and it cannot be fetched"):
        load_corpus(sampled(max_rows=8), tmp_path / "cache")


def test_error_names_a_missing_column_or_one_without_text(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no column 'text'; the columns are body, n"):
        load_corpus(sampled(max_rows=9, column="text"), tmp_path / "cache")
    with pytest.raises(DataError, match="columns n hold something other than text"):
        load_corpus(sampled(max_rows=9, column="n"), tmp_path / "cache")


def test_lost_connection_suggests_running_the_command_again(repository: Path, tmp_path: Path) -> None:
    for file in repository.iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[:200] + b"x" * 100 + whole[300:])
    with pytest.raises(ServiceError, match="run the same command again: it continues with the same file"):
        load_corpus(sampled(max_rows=9), tmp_path / "cache")
