"""From a general corpus in the config to rows of text, checked, drawn and split by the seed.

Everything that names a place (path, cache) stays out of the digests: a moved file is the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.base import digest_of
from schemas.data import DocstringText, FileText, GeneralCorpus, HubText, TextSource
from schemas.errors import DataError
from stages.docstrings import corpus_paragraphs, docstring_digest, load_paragraphs
from stages.files import file_format, file_identity, read_file, resolve_file, text_column
from stages.hub import hub_commit, load_hub

# Raise when the same files should give other rows.
CORPUS_VERSION = 1


@dataclass(frozen=True)
class CorpusRows:
    """Running text in the column `text`; no text of `held_out` is in `train`."""

    train: Dataset
    held_out: Dataset
    digest: str


def corpus_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what decides the rows of `corpus`: the content of each source, and the config."""
    config = corpus.model_dump(mode="json", exclude={"sources"})
    sources = [_source_identity(source) for source in corpus.sources]
    return digest_of({"config": config, "sources": sources, "version": CORPUS_VERSION})


def _source_identity(source: TextSource) -> dict[str, object]:
    match source:
        case DocstringText():
            left_out = source.model_dump(mode="json", include={"validation_ratio", "seed"})
            return {"docstrings": docstring_digest(), **left_out}
        case FileText():
            files = [
                file_identity(resolve_file(path, "data.sources"), "data.sources")
                for path in source.paths
            ]
            return {"files": files, "column": source.column}
        case HubText():
            commit = hub_commit(source.id, source.revision) or source.revision
            return source.model_dump(mode="json", exclude={"revision"}) | {"commit": commit}
        case _:
            assert_never(source)


def load_corpus(corpus: GeneralCorpus, cache: Path) -> CorpusRows:
    """The text of all sources: `held_out_rows` drawn first, then up to `max_rows` of the rest.

    The held-out rows are thus the same whatever `max_rows` is. Blank rows are skipped.

    Raises:
        DataError: a source is not usable, or there are too few rows.
    """
    digest = corpus_digest(corpus)
    rows = datasets.concatenate_datasets([_text_of(source, cache) for source in corpus.sources])
    if len(rows) <= corpus.held_out_rows:
        raise DataError(
            f"data.sources: {len(rows)} rows of text in all, but data.held_out_rows keeps "
            f"{corpus.held_out_rows} from "
            "training; give more text or lower data.held_out_rows"
        )
    order = np.random.Generator(np.random.PCG64(corpus.seed)).permutation(len(rows))
    held_out = rows.select(np.sort(order[: corpus.held_out_rows]))
    rest = order[corpus.held_out_rows :]
    known = pa.array(held_out["text"][:], pa.string())
    repeated = np.concatenate(
        [pc.is_in(chunk, value_set=known).to_numpy(zero_copy_only=False) for chunk in _chunks(rows)]
    )
    rest = rest[~repeated[rest]][: corpus.max_rows]
    if len(rest) == 0:
        raise DataError(
            "data.sources: every row's text is among the held-out rows; give text that differs"
        )
    return CorpusRows(rows.select(np.sort(rest)), held_out, digest)


def _chunks(rows: Dataset) -> Iterator[pa.Array]:
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        yield from table["text"].chunks


def _text_of(source: TextSource, cache: Path) -> Dataset:
    match source:
        case DocstringText():
            return corpus_paragraphs(source, load_paragraphs(cache))
        case FileText():
            parts = []
            for given in source.paths:
                path = resolve_file(given, "data.sources")
                rows = read_file(path, cache, "data.sources")
                column = "text" if file_format(path, "data.sources") == ".txt" else source.column
                parts.append(_without_blanks(rows, column, f"data.sources: {path}"))
            return datasets.concatenate_datasets(parts)
        case HubText():
            where = f"data.sources: {source.id}, split {source.split}"
            return _without_blanks(load_hub(source, source.split, where), source.column, where)
        case _:
            assert_never(source)


def _without_blanks(rows: Dataset, column: str, where: str) -> Dataset:
    text = text_column(rows, column, where, blank_allowed=True)
    blank = pc.equal(pc.utf8_trim_whitespace(text), "").to_numpy()
    rows = rows.select_columns(column)
    if blank.any():
        rows = rows.select(np.flatnonzero(~blank))
    if len(rows) == 0:
        raise DataError(
            f"{where}: column {column!r} is empty in every row; give a source with text"
        )
    rows = rows if column == "text" else rows.rename_column(column, "text")
    # Sources differ in what the same strings are called on disk; together they need one type.
    plain = datasets.Features({"text": datasets.Value("string")})
    return rows if rows.features == plain else rows.cast(plain)
