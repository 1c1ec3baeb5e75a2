"""Preparation of a general corpus: its rows of text are checked, cleaned, drawn and split by the seed.

The sources are read twice from start to end, a megabyte at a time: once to decide the fate of each row by its hashes,
and once to write the remaining rows to the cache. No row stays in memory. Temporary files
(`stages.storage.mapped_columns`) hold 27 bytes per row, up to 43 if passages are drawn, and 267 more to find near
duplicates (`stages.data.corpus.duplicates`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.errors import DataError
from schemas.core.wording import printable
from schemas.data.corpus import AnyCut, CorpusSummary, GeneralCorpus, Leak, RowCut, SourceSummary
from stages.data.corpus.digests import cut_digest, rows_digest
from stages.data.corpus.duplicates import Sketches, repeated
from stages.data.corpus.leaks import EXAMPLES, HeldOut
from stages.data.corpus.sources import Part, TextRows, parts_of, source_name
from stages.data.readers.first_reading import as_it_is_now, read_once
from stages.storage.mapped_columns import Column, counted, slices
from stages.storage.sealed_folder import is_whole, make_whole
from stages.text.fingerprints import Hashes, in_batches, letters_of, text_hashes

# Rows of a document that are drawn together if text is cut along its documents.
PASSAGE_ROWS = 32
_SUMMARY = "summary.json"
# Fates of a row.
_TRAIN, _HELD_OUT, _UNUSED, _BLANK, _DUPLICATE, _NEAR, _LEAK = range(7)


@dataclass(frozen=True)
class CorpusRows:
    """Running text in the column `text`; no text of `held_out` is in `train`.

    If text is cut along its documents, the column `begins` marks the rows that do not continue the row before.
    """

    train: Dataset
    held_out: Dataset
    digest: str
    """Of the rows and their cut, which decide the sequences; not of their mixture."""
    cut: AnyCut = field(default_factory=RowCut)
    seed: int = 0
    source_rows: tuple[int, ...] = ()
    """Rows of `train` from each source, in order."""
    weights: tuple[float, ...] | None = None
    """Share of the training tokens from each source; None to train on each row once per epoch."""


def load_corpus(corpus: GeneralCorpus, cache: Path) -> CorpusRows:
    """Return the text of all sources: `held_out_rows` drawn first, then up to `max_rows` of the rest.

    The held-out rows therefore do not depend on `max_rows`. Blank rows, duplicates and rows that contain a validation
    text are left out. The first call writes the rows to the cache, later calls open them.

    Raises:
        DataError: a source is not usable, or there are too few rows.
    """
    return read_once("rows", corpus, lambda: _load_corpus(corpus, cache))


def _load_corpus(corpus: GeneralCorpus, cache: Path) -> CorpusRows:
    folder = _folder(corpus, cache)
    summary = read_summary(corpus, cache)
    weights = tuple(source.weight for source in corpus.sources if source.weight is not None)
    for source in summary.sources:
        if weights and not source.train:
            raise DataError(
                f"general_corpus.sources: no row of {source.name} is left to train on (of {source.rows}: "
                f"{source.blank} blank, {source.duplicates + source.near_duplicates} duplicates, {source.leaks} "
                "leaks), so it cannot have a weight; remove it from the list, or put it before the sources that "
                "repeat it"
            )
    return CorpusRows(
        train=Dataset.from_file(str(folder / "train.arrow")),
        held_out=Dataset.from_file(str(folder / "held_out.arrow")),
        digest=cut_digest(corpus),
        cut=corpus.cut,
        seed=corpus.seed,
        source_rows=tuple(source.train for source in summary.sources),
        weights=weights or None,
    )


def read_summary(corpus: GeneralCorpus, cache: Path) -> CorpusSummary:
    """Return what became of the sources' rows; prepares the corpus unless it is in the cache.

    Raises:
        DataError: as `load_corpus`.
    """
    folder = _folder(corpus, cache)
    if not is_whole(folder):
        make_whole(folder, lambda beside: _prepare(corpus, cache, beside))
    return CorpusSummary.model_validate_json((folder / _SUMMARY).read_text(encoding="utf-8"))


def _folder(corpus: GeneralCorpus, cache: Path) -> Path:
    return cache / "corpora" / rows_digest(corpus)[:32]


def _prepare(corpus: GeneralCorpus, cache: Path, into: Path) -> None:
    parts = [
        part
        for number, source in enumerate(corpus.sources)
        for part in parts_of(source, number, cache, seed=corpus.seed, documents=corpus.needs_documents)
    ]
    held_out = HeldOut.of(corpus.decontaminate, cache)
    with TemporaryDirectory(dir=into) as folder:
        scratch = Path(folder)
        scan = _scan(parts, corpus, held_out, scratch)
        _decide(scan, corpus, scratch)
        characters = _write(parts, scan, corpus.needs_documents, into)
        counts = _counts(scan)
    summary = CorpusSummary(
        digest=rows_digest(corpus),
        cut=corpus.cut.kind,
        duplicates=corpus.duplicates,
        sources=tuple(
            _source_summary(source_name(source), counts[number], characters.get(number, 0))
            for number, source in enumerate(corpus.sources)
        ),
        leaks=tuple(scan.leaks),
        remarks=tuple(remark for part in parts for remark in part.remarks),
    )
    with as_it_is_now():
        if rows_digest(corpus) != summary.digest:
            raise DataError(
                "general_corpus: a source changed while it was read; run again once nothing writes to it, or give a "
                "copy"
            )
    (into / _SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")


@dataclass
class _Scan:
    """Results of the first reading for every row, in files."""

    hashes: Hashes
    fates: NDArray[np.uint8]
    begins: NDArray[np.bool_]
    """Rows at which a document begins; in the end, rows that do not continue the remaining row before."""
    numbers: list[int]
    """Rows of each source, one source after the other."""
    leaks: list[Leak]


def _scan(parts: Sequence[Part], corpus: GeneralCorpus, held_out: HeldOut, scratch: Path) -> _Scan:
    """Read every row once, and find the blank rows, leaks and duplicates."""
    hashes, fates = Column(scratch / "hashes", np.uint64), Column(scratch / "fates", np.uint8)
    begins = Column(scratch / "begins", np.bool_)
    numbers = [0] * len(corpus.sources)
    leaks: list[Leak] = []
    sketches = Sketches(scratch) if corpus.duplicates == "near" else None
    total = 0
    for part in parts:
        first = total
        has_text = False
        for rows in part.read():
            chunk = _Chunk(rows, held_out, sketches, total)
            leaks += chunk.leaks(part, total - first)[: EXAMPLES - len(leaks)]
            hashes.add(chunk.hashes)
            fates.add(chunk.fates)
            begins.add(rows.begins)
            has_text = has_text or not rows.blank.all()
            total += len(rows.text)
        if not has_text:
            raise DataError(f"{part.where}: column {part.column!r} is empty in every row; give a source with text")
        numbers[part.source] += total - first
    scan = _Scan(hashes.mapped(), fates.mapped(), begins.mapped(), numbers, leaks)
    if corpus.duplicates != "keep":
        _leave_out(scan, _DUPLICATE, lambda rows: repeated(scan.hashes, rows, scratch), scratch)
    if sketches is not None:
        _leave_out(scan, _NEAR, sketches.almost_repeated, scratch)
    return scan


def _leave_out(
    scan: _Scan, fate: int, duplicates_of: Callable[[NDArray[np.bool_]], NDArray[np.bool_]], scratch: Path
) -> None:
    """Set the fate of duplicates among the usable rows."""
    usable = Column(scratch / f"usable-{fate}", np.bool_)
    for some in slices(len(scan.fates)):
        usable.add(scan.fates[some] == _TRAIN)
    duplicates = duplicates_of(usable.mapped())
    for some in slices(len(scan.fates)):
        scan.fates[some][duplicates[some]] = fate


class _Chunk:
    """Hashes and fates of a megabyte of rows."""

    def __init__(self, rows: TextRows, held_out: HeldOut, sketches: Sketches | None, first: int) -> None:
        self.held_out, self.texts = held_out, rows.text.to_pylist()
        hashes, tasks = [], []
        before = 0
        for batch in in_batches(self.texts):
            letters = letters_of(batch)
            usable = ~rows.blank[before : before + len(batch)]
            hashes.append(text_hashes(batch, letters))
            tasks.append(held_out.tasks_of(letters))
            if sketches is not None:
                sketches.add(letters, first + before, usable)
            before += len(batch)
        self.hashes = np.concatenate(hashes)
        self.tasks = np.concatenate(tasks)
        self.fates = np.full(len(self.texts), _TRAIN, np.uint8)
        self.fates[self.tasks >= 0] = _LEAK
        self.fates[rows.blank] = _BLANK

    def leaks(self, part: Part, before: int) -> list[Leak]:
        """Return the rows that contain a validation text."""
        return [
            Leak(
                task=self.held_out.tasks[self.tasks[row]],
                row=before + row + 1,
                source=part.where.partition(": ")[2],
                text=printable(self.texts[row], 160),
            )
            for row in np.flatnonzero(self.fates == _LEAK).tolist()
        ]


def _decide(scan: _Scan, corpus: GeneralCorpus, scratch: Path) -> None:
    """Decide the fate of every row, and which remaining rows do not continue the one before."""
    rows, passages = _usable(scan, scratch)
    if len(rows) <= corpus.held_out_rows:
        raise DataError(
            f"general_corpus.sources: {len(rows)} rows of text in all, but general_corpus.held_out_rows keeps "
            f"{corpus.held_out_rows} from training; give more text or lower general_corpus.held_out_rows"
        )
    drawn, held = _drawn(rows, passages if corpus.needs_documents else None, corpus, scratch)
    left = len(rows) if corpus.max_rows is None else corpus.max_rows
    trained = 0
    for some in slices(len(scan.fates)):
        scan.fates[some][scan.fates[some] == _TRAIN] = _UNUSED
    scan.fates[drawn[:held]] = _HELD_OUT
    known = np.sort(scan.hashes[drawn[:held]])
    for some in slices(len(drawn) - held):
        chosen = drawn[held:][some]
        hashes = scan.hashes[chosen]
        nearest = np.minimum(np.searchsorted(known, hashes), held - 1)
        fresh = chosen[known[nearest] != hashes][: left - trained]
        scan.fates[fresh] = _TRAIN
        trained += len(fresh)
    if not trained:
        raise DataError(
            "general_corpus.sources: every row's text is among the held-out rows; give more text, or lower "
            "general_corpus.held_out_rows"
        )
    last = _BLANK
    for some in slices(len(scan.fates)):
        stays = np.flatnonzero(scan.fates[some] <= _UNUSED)
        fates = scan.fates[some][stays]
        scan.begins[some][stays] |= fates != np.concatenate([[last], fates[:-1]])
        last = int(fates[-1]) if len(fates) else last


def _usable(scan: _Scan, scratch: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that can be drawn, and the first of them in each passage of a document, followed by their end.

    Among these rows, `begins` then marks the first of each document.
    """
    rows, passages = Column(scratch / "rows", np.int64), Column(scratch / "passages", np.int64)
    number = document = first = 0
    last = -1
    for some in slices(len(scan.fates)):
        usable = np.flatnonzero(scan.fates[some] == _TRAIN)
        documents = document + np.cumsum(scan.begins[some])
        begins = np.diff(documents[usable], prepend=last) != 0
        scan.begins[some][usable] = begins
        numbers = number + np.arange(len(usable))
        firsts = np.maximum.accumulate(np.where(begins, numbers, first))
        rows.add(some.start + usable)
        passages.add(numbers[(numbers - firsts) % PASSAGE_ROWS == 0])
        document = int(documents[-1])
        if len(usable):
            number, first, last = number + len(usable), int(firsts[-1]), int(documents[usable[-1]])
    passages.add(np.array([number]))
    return rows.mapped(), passages.mapped()


def _drawn(
    rows: NDArray[np.int64], passages: NDArray[np.int64] | None, corpus: GeneralCorpus, scratch: Path
) -> tuple[NDArray[np.int64], int]:
    """Return the rows in the order of the draw, and how many of them are held out; passages stay together."""
    random = np.random.Generator(np.random.PCG64(corpus.seed))
    if passages is None:
        # The same draw as `permutation`, in a file.
        random.shuffle(rows)
        return rows, corpus.held_out_rows
    order = counted(scratch / "order", len(passages) - 1)
    random.shuffle(order)
    drawn = Column(scratch / "drawn", np.int64)
    for some in slices(len(order), PASSAGE_ROWS):
        firsts = passages[order[some]]
        sizes = passages[order[some] + 1] - firsts
        before = np.cumsum(sizes) - sizes
        drawn.add(rows[np.arange(sizes.sum()) + np.repeat(firsts - before, sizes)])
    first = order[: corpus.held_out_rows]
    ends = np.cumsum(passages[first + 1] - passages[first])
    return drawn.mapped(), int(ends[np.searchsorted(ends, corpus.held_out_rows)])


def _write(parts: Sequence[Part], scan: _Scan, documents: bool, into: Path) -> dict[int, int]:
    """Write the remaining rows; return the characters of each source's training rows."""
    fields = [pa.field("text", pa.string())]
    fields += [pa.field("begins", pa.bool_())] if documents else []
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
            columns = [text, pa.array(scan.begins[rows])] if documents else [text]
            batch = pa.record_batch(columns, schema)
            for fate, writer in ((_TRAIN, train_writer), (_HELD_OUT, held_out_writer)):
                if (chosen := scan.fates[rows] == fate).any():
                    kept = batch.filter(pa.array(chosen))
                    writer.write_batch(kept)
                    if fate == _TRAIN:
                        size = pc.sum(pc.utf8_length(kept.column(0))).as_py()
                        characters[part.source] = characters.get(part.source, 0) + size
    return characters


def _numbered(parts: Sequence[Part]) -> Iterator[tuple[Part, int, pa.StringArray]]:
    """Yield the text again, with the number of its first row."""
    first = 0
    for part in parts:
        for rows in part.read():
            yield part, first, rows.text
            first += len(rows.text)


def _counts(scan: _Scan) -> list[list[int]]:
    """Count the rows of each fate, source by source."""
    all_counts = []
    first = 0
    for number in scan.numbers:
        counts = np.zeros(7, np.int64)
        fates = scan.fates[first : first + number]
        for some in slices(number):
            counts += np.bincount(fates[some], minlength=7)
        all_counts.append(counts.tolist())
        first += number
    return all_counts


def _source_summary(name: str, counts: list[int], characters: int) -> SourceSummary:
    return SourceSummary(
        name=name,
        rows=sum(counts),
        blank=counts[_BLANK],
        duplicates=counts[_DUPLICATE],
        near_duplicates=counts[_NEAR],
        leaks=counts[_LEAK],
        train=counts[_TRAIN],
        held_out=counts[_HELD_OUT],
        characters=characters,
    )
