"""From a general corpus in the config to rows of text: checked, cleaned, drawn and split by the seed.

The sources are read twice from start to end, a megabyte at a time: once to decide what becomes of each row, by hashes,
and once to write the rows that stay into the cache. Of a row twelve bytes stay in memory, sixteen
more while rows are drawn, and for almost equal rows 256 in files beside (`stages.duplicates`).

Everything that names a place (path, cache) stays out of the digests: a moved file is the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from schemas.base import digest_of
from schemas.corpus import AnyCut, CorpusSummary, GeneralCorpus, Leak, RowCut, SourceSummary
from schemas.errors import DataError
from schemas.yaml_text import printable
from stages.corpus_sources import Part, TextRows, parts_of, source_identity, source_name
from stages.duplicates import SORTED_AT_ONCE, Sketches, repeated
from stages.leaks import EXAMPLES, HeldOut, held_out_digest
from stages.letters import in_batches, letters_of, text_hashes
from stages.whole import is_whole, make_whole

# Raise when the same files should give other rows.
CORPUS_VERSION = 2
# Where text is cut along its documents, so many rows of one are drawn together.
PASSAGE_ROWS = 32
_SUMMARY = "summary.json"
# What becomes of a row.
_TRAIN, _HELD_OUT, _UNUSED, _BLANK, _DUPLICATE, _NEAR, _LEAK = range(7)


@dataclass(frozen=True)
class CorpusRows:
    """Running text in the column `text`; no text of `held_out` is in `train`.

    Where text is cut along its documents, the column `begins` says which rows follow none of the row before.
    """

    train: Dataset
    held_out: Dataset
    digest: str
    """Of what decides the sequences: the rows and their cut, not how they are mixed."""
    cut: AnyCut = field(default_factory=RowCut)
    seed: int = 0
    source_rows: tuple[int, ...] = ()
    """Rows of `train` from each source, in their order; empty for one source."""
    weights: tuple[float, ...] | None = None
    """Shares of the training tokens from each source; None where each row is learned once an epoch."""


def corpus_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what a corpus is to a stage: the content of each source, the config, and the weights."""
    weights = [source.weight for source in corpus.sources if source.weight is not None]
    digest = _cut_digest(corpus)
    return digest_of({"cut": digest, "weights": weights}) if weights else digest


def _cut_digest(corpus: GeneralCorpus) -> str:
    config = corpus.model_dump(mode="json", include={"cut", "max_length"})
    return digest_of({"rows": _rows_digest(corpus), **config})


def _rows_digest(corpus: GeneralCorpus) -> str:
    chosen = {"max_rows", "held_out_rows", "seed", "duplicates"}
    return digest_of(
        {
            "config": corpus.model_dump(mode="json", include=chosen),
            "documents": corpus.needs_documents,
            "sources": [source_identity(source, seed=corpus.seed) for source in corpus.sources],
            "decontaminate": [held_out_digest(task) for task in corpus.decontaminate],
            "version": CORPUS_VERSION,
        }
    )


def load_corpus(corpus: GeneralCorpus, cache: Path) -> CorpusRows:
    """The text of all sources: `held_out_rows` drawn first, then up to `max_rows` of the rest.

    The held-out rows are thus the same whatever `max_rows` is. Blank rows are skipped, and rows that were there before
    or hold a validation text left out. The first call writes what is left into the cache, later calls open it.

    Raises:
        DataError: a source is not usable, or there are too few rows.
    """
    folder = _folder(corpus, cache)
    summary = read_summary(corpus, cache)
    weights = tuple(source.weight for source in corpus.sources if source.weight is not None)
    for source in summary.sources:
        if weights and not source.train:
            raise DataError(
                f"data.sources: no row of {source.name} is left to be trained on (of {source.rows}: {source.blank} "
                f"blank, {source.duplicates + source.near_duplicates} there before, {source.leaks} leaks), so it can "
                "have no weight; take it off the list, or put it before the sources that repeat it"
            )
    return CorpusRows(
        train=Dataset.from_file(str(folder / "train.arrow")),
        held_out=Dataset.from_file(str(folder / "held_out.arrow")),
        digest=_cut_digest(corpus),
        cut=corpus.cut,
        seed=corpus.seed,
        source_rows=tuple(source.train for source in summary.sources),
        weights=weights or None,
    )


def read_summary(corpus: GeneralCorpus, cache: Path) -> CorpusSummary:
    """What became of the sources' rows, which are read for it if they were not before.

    Raises:
        DataError: as `load_corpus`.
    """
    folder = _folder(corpus, cache)
    if not is_whole(folder):
        make_whole(folder, lambda beside: _prepare(corpus, cache, beside))
    return CorpusSummary.model_validate_json((folder / _SUMMARY).read_text(encoding="utf-8"))


def _folder(corpus: GeneralCorpus, cache: Path) -> Path:
    return cache / "corpora" / _rows_digest(corpus)[:32]


def _prepare(corpus: GeneralCorpus, cache: Path, into: Path) -> None:
    parts = [
        part
        for number, source in enumerate(corpus.sources)
        for part in parts_of(
            source, number, cache, seed=corpus.seed, documents=corpus.needs_documents
        )
    ]
    held_out = HeldOut.of(corpus.decontaminate, cache)
    with TemporaryDirectory(dir=into) as scratch:
        looked = _look(parts, corpus, held_out, Path(scratch))
    fates, begins = _decide(looked, corpus)
    characters = _write(parts, fates, begins, into)
    summary = CorpusSummary(
        digest=_rows_digest(corpus),
        cut=corpus.cut.kind,
        duplicates=corpus.duplicates,
        sources=tuple(
            _source_summary(source_name(source), fates[looked.sources == number], characters.get(number, 0))
            for number, source in enumerate(corpus.sources)
        ),
        leaks=tuple(looked.leaks),
    )  # fmt: skip
    (into / _SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")


@dataclass
class _Looked:
    """What the first reading found of every row."""

    hashes: NDArray[np.uint64]
    fates: NDArray[np.uint8]
    begins: NDArray[np.bool_]
    sources: NDArray[np.int16]
    leaks: list[Leak]


def _look(
    parts: Sequence[Part], corpus: GeneralCorpus, held_out: HeldOut, scratch: Path
) -> _Looked:
    """Read every row once; then say which are blank, leaks, or there before."""
    hashes, fates, begins, sources = [], [], [], []
    leaks: list[Leak] = []
    sketches = Sketches(scratch) if corpus.duplicates == "near" else None
    total = 0
    for part in parts:
        first = total
        has_text = False
        for rows in part.read():
            found = _Chunk(rows, held_out, sketches, total)
            leaks += found.leaks(part, total - first)[: EXAMPLES - len(leaks)]
            hashes.append(found.hashes)
            fates.append(found.fates)
            begins.append(rows.begins)
            has_text = has_text or not rows.blank.all()
            total += len(rows.text)
        if not has_text:
            raise DataError(
                f"{part.where}: column {part.column!r} is empty in every row; give a source with text"
            )
        sources.append(np.full(total - first, part.source, np.int16))
    looked = _Looked(
        np.concatenate(hashes), np.concatenate(fates), np.concatenate(begins),
        np.concatenate(sources), leaks,
    )  # fmt: skip
    if corpus.duplicates != "keep":
        looked.fates[repeated(looked.hashes, looked.fates == _TRAIN)] = _DUPLICATE
    if sketches is not None:
        looked.fates[sketches.almost_repeated(looked.fates == _TRAIN)] = _NEAR
    return looked


class _Chunk:
    """What a megabyte of rows is found to be."""

    def __init__(
        self, rows: TextRows, held_out: HeldOut, sketches: Sketches | None, first: int
    ) -> None:
        self.held_out, self.texts = held_out, rows.text.to_pylist()
        hashes, tasks = [], []
        before = 0
        for batch in in_batches(self.texts):
            letters = letters_of(batch)
            usable = ~rows.blank[before : before + len(batch)]
            hashes.append(text_hashes(batch, letters))
            tasks.append(held_out.found_in(letters))
            if sketches is not None:
                sketches.add(letters, first + before, usable)
            before += len(batch)
        self.hashes = np.concatenate(hashes)
        self.tasks = np.concatenate(tasks)
        self.fates = np.full(len(self.texts), _TRAIN, np.uint8)
        self.fates[self.tasks >= 0] = _LEAK
        self.fates[rows.blank] = _BLANK

    def leaks(self, part: Part, before: int) -> list[Leak]:
        """The rows that hold a validation text."""
        return [
            Leak(
                task=self.held_out.tasks[self.tasks[row]],
                row=before + row + 1,
                source=part.where.partition(": ")[2],
                text=printable(self.texts[row], 160),
            )
            for row in np.flatnonzero(self.fates == _LEAK).tolist()
        ]


def _decide(
    looked: _Looked, corpus: GeneralCorpus
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """What becomes of every row; and, where text is cut along documents, which of those that stay follow none."""
    rows = np.flatnonzero(looked.fates == _TRAIN)
    if len(rows) <= corpus.held_out_rows:
        raise DataError(
            f"data.sources: {len(rows)} rows of text in all, but data.held_out_rows keeps "
            f"{corpus.held_out_rows} from "
            "training; give more text or lower data.held_out_rows"
        )
    documents = None
    if corpus.needs_documents:
        documents = np.cumsum(looked.begins, dtype=np.int32)[rows]
    drawn, held = _drawn(documents, len(rows), corpus)
    looked.fates[rows] = _UNUSED
    looked.fates[rows[drawn[:held]]] = _HELD_OUT
    known = np.sort(looked.hashes[rows[drawn[:held]]])
    left = len(rows) if corpus.max_rows is None else corpus.max_rows
    for start in range(held, len(drawn), SORTED_AT_ONCE):
        some = rows[drawn[start : start + SORTED_AT_ONCE]]
        hashes = looked.hashes[some]
        places = np.minimum(np.searchsorted(known, hashes), held - 1)
        fresh = some[known[places] != hashes][:left]
        looked.fates[fresh] = _TRAIN
        left -= len(fresh)
    if not (looked.fates == _TRAIN).any():
        raise DataError(
            "data.sources: every row's text is among the held-out rows; give text that differs, or lower "
            "data.held_out_rows"
        )
    if documents is None:
        return looked.fates, None
    fates = looked.fates[rows]
    begins = np.ones(len(looked.fates), bool)
    begins[rows[1:]] = (documents[1:] != documents[:-1]) | (fates[1:] != fates[:-1])
    return looked.fates, begins


def _drawn(
    documents: NDArray[np.int32] | None, number: int, corpus: GeneralCorpus
) -> tuple[NDArray[np.int64], int]:
    """The rows in the order of the draw, and how many of them are held out; passages stay together."""
    random = np.random.Generator(np.random.PCG64(corpus.seed))
    held = corpus.held_out_rows
    if documents is None:
        return random.permutation(number), held
    passages = _passages(documents)
    ranks = np.argsort(random.permutation(int(passages[-1]) + 1))
    drawn = np.argsort(ranks[passages], kind="stable")
    while held < number and passages[drawn[held]] == passages[drawn[held - 1]]:
        held += 1
    return drawn, held


def _passages(documents: NDArray[np.int32]) -> NDArray[np.int64]:
    """Numbers of the passages of up to `PASSAGE_ROWS` rows that the documents are drawn in."""
    places = np.arange(len(documents))
    first = np.concatenate([[True], documents[1:] != documents[:-1]])
    inside = places - np.maximum.accumulate(np.where(first, places, 0))
    return np.cumsum(inside % PASSAGE_ROWS == 0) - 1


def _write(
    parts: Sequence[Part],
    fates: NDArray[np.uint8],
    begins: NDArray[np.bool_] | None,
    into: Path,
) -> dict[int, int]:
    """Write the rows that stay; characters of each source's training rows."""
    fields = [pa.field("text", pa.string())]
    fields += [] if begins is None else [pa.field("begins", pa.bool_())]
    schema = pa.schema(fields)
    characters: dict[int, int] = {}
    with (
        pa.OSFile(str(into / "train.arrow"), "wb") as train,
        pa.OSFile(str(into / "held_out.arrow"), "wb") as held_out,
        pa.ipc.new_stream(train, schema) as train_writer,
        pa.ipc.new_stream(held_out, schema) as held_out_writer,
    ):
        for part, first, text in _numbered(parts):
            rows = slice(first, first + len(text))
            columns = [text] if begins is None else [text, pa.array(begins[rows])]
            batch = pa.record_batch(columns, schema)
            for fate, writer in ((_TRAIN, train_writer), (_HELD_OUT, held_out_writer)):
                if (chosen := fates[rows] == fate).any():
                    taken = batch.filter(pa.array(chosen))
                    writer.write_batch(taken)
                    if fate == _TRAIN:
                        size = pc.sum(pc.utf8_length(taken.column(0))).as_py()
                        characters[part.source] = characters.get(part.source, 0) + size
    return characters


def _numbered(parts: Sequence[Part]) -> Iterator[tuple[Part, int, pa.StringArray]]:
    """The text again, with the number of its first row."""
    first = 0
    for part in parts:
        for rows in part.read():
            yield part, first, rows.text
            first += len(rows.text)


def _source_summary(name: str, fates: NDArray[np.uint8], characters: int) -> SourceSummary:
    counts = np.bincount(fates, minlength=7).tolist()
    return SourceSummary(
        name=name, rows=len(fates), blank=counts[_BLANK], duplicates=counts[_DUPLICATE],
        near_duplicates=counts[_NEAR], leaks=counts[_LEAK], train=counts[_TRAIN],
        held_out=counts[_HELD_OUT], characters=characters,
    )  # fmt: skip
