"""Tokenisation of a general corpus into the flat arrays of `Tokens`: cut as configured, done once, read from disk.

A quarter of a megabyte of text is in memory at a time, with its tokens. The tokenizer's threads do the work, without
any loop over tokens in Python. Tokens and lengths are written to files as they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.data.corpus import (
    AnyCut,
    CorpusSummary,
    GeneralCorpus,
    PairCut,
    RowCut,
    SentenceCut,
    SequenceCut,
    SequenceSummary,
)
from stages.data.batching.mixture import Mixture
from stages.data.batching.tokens import Tokens
from stages.data.corpus.digests import splitting
from stages.data.corpus.prepare import CorpusRows, load_corpus, read_summary
from stages.data.corpus.segment import Cut, EachPiece, Packed, SegmentPairs, Segments
from stages.data.corpus.sources import batches_of
from stages.data.corpus.special_tokens import Encoder, Template, assembled, template_of
from stages.data.tasks.tokenize import check_tokenizer, kept_tokens, tokenizer_digest
from stages.storage.format_versions import CORPUS_TOKENS_VERSION
from stages.storage.mapped_columns import write_header
from stages.text.fingerprints import in_batches
from stages.text.sentences import split_sentences

_SUMMARY = "summary.json"
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def tokenize_corpus(
    rows: CorpusRows, tokenizer: PreTrainedTokenizerFast, *, max_length: int, cache: Path
) -> tuple[Tokens, Tokens]:
    """Return training and held-out sequences with special tokens, cut as the corpus is configured.

    Raises:
        DataError: the tokenizer has no padding token or no fast version, `max_length` leaves no room for text, or the
            text has no tokens at all.
    """
    train, folder = _tokens(rows, "train", tokenizer, max_length, cache)
    if rows.weights is not None:
        train = replace(train, mixture=Mixture(_read_summary(folder).per_source, rows.weights))
    return train, _tokens(rows, "held_out", tokenizer, max_length, cache)[0]


def corpus_summary(
    corpus: GeneralCorpus, cache: Path, tokenizer: PreTrainedTokenizerFast | None = None
) -> CorpusSummary:
    """Return the rows, duplicates and leaks of each source of a corpus; with a tokenizer, its sequences too.

    Raises:
        DataError: as `load_corpus` and `tokenize_corpus`.
    """
    summary = read_summary(corpus, cache)
    if tokenizer is None:
        return summary
    rows = load_corpus(corpus, cache)
    _, folder = _tokens(rows, "train", tokenizer, corpus.max_length, cache)
    return summary.model_copy(update={"sequences": _read_summary(folder), "cut": corpus.cut.kind})


def _read_summary(folder: Path) -> SequenceSummary:
    return SequenceSummary.model_validate_json((folder / _SUMMARY).read_text(encoding="utf-8"))


def _tokens(
    rows: CorpusRows, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int, cache: Path
) -> tuple[Tokens, Path]:
    check_tokenizer(tokenizer, max_length, isinstance(rows.cut, PairCut))
    digest = digest_of(
        {
            "rows": f"{rows.digest}/{split}",
            "cut": rows.cut.model_dump(mode="json"),
            "seed": rows.seed,
            "tokenizer": tokenizer_digest(tokenizer),
            "max_length": max_length,
            "version": CORPUS_TOKENS_VERSION,
            **splitting(rows.cut),
        }
    )

    def fill(beside: Path) -> None:
        text = rows.train if split == "train" else rows.held_out
        sources = rows.source_rows if split == "train" else ()
        tokenizing = _Tokenizing(rows.cut, rows.seed, tokenizer, max_length)
        tokenizing.fill(text, sources or (len(text),), beside)

    tokens, folder = kept_tokens(cache, digest, int(tokenizer.pad_token_id), fill)
    weighted = split == "train" and rows.weights is not None
    per_source = _read_summary(folder).per_source if weighted else ()
    if 0 in per_source:
        raise DataError(
            f"general_corpus.sources[{per_source.index(0)}]: this tokenizer leaves no token of its text, so it cannot "
            "have a weight; remove it from the list"
        )
    return tokens, folder


class _Tokenizing:
    """Writer of the files of a folder of tokens."""

    def __init__(self, cut: AnyCut, seed: int, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self.cut, self.seed, self.max_length = cut, seed, max_length
        self.encoder = Encoder(tokenizer)
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.template = template_of(self.encoder, is_pair=isinstance(cut, PairCut))
        self.document = 0

    def fill(self, rows: Dataset, sources: tuple[int, ...], into: Path) -> None:
        """Write ids, token types, lengths and the summary of all rows.

        Args:
            rows: the text.
            sources: rows of each source, in order.
            into: the folder.
        """
        cut = self._cut(into / "scratch")
        left = list(sources)
        with _Writer(into, self.template, self.max_length, has_types=self.has_types) as writer:
            for texts, begins in _chunks(rows):
                while len(texts):
                    number = min(len(texts), left[0])
                    writer.write(self._sequences(cut, texts[:number], begins[:number]))
                    texts, begins = texts[number:], begins[number:]
                    left[0] -= number
                    while left and not left[0]:
                        writer.write(cut.finish())
                        writer.end_source()
                        left.pop(0)
            summary = writer.summary()
        (into / _SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _cut(self, scratch: Path) -> Cut:
        room = self.max_length - self.template.num_special
        match self.cut:
            case RowCut() | SentenceCut():
                return EachPiece(room)
            case SequenceCut(across_documents=across):
                return Packed(room, across_documents=across)
            case PairCut():
                return SegmentPairs(room, self.cut, self.seed, scratch)

    def _sequences(self, cut: Cut, texts: Sequence[str], begins: NDArray[np.bool_]) -> Iterator[Segments]:
        documents = self.document + np.cumsum(begins)
        self.document = int(documents[-1]) if len(documents) else self.document
        if not isinstance(self.cut, RowCut):
            sentences = [split_sentences(text) for text in texts]
            documents = np.repeat(documents, [len(of_text) for of_text in sentences])
            texts = [sentence for of_text in sentences for sentence in of_text]
        if texts:
            flat, lengths = self.encoder.encode(texts)
            # A piece may consist of characters that the tokenizer drops.
            kept = lengths > 0
            if kept.any():
                yield from cut.add(flat, lengths[kept], documents[kept])


def _chunks(rows: Dataset) -> Iterator[tuple[Sequence[str], NDArray[np.bool_]]]:
    """Yield some texts at a time, and which of them do not continue the row before."""
    columns = ["text", "begins"] if "begins" in rows.column_names else ["text"]
    for batch in batches_of(rows, columns):
        begins = np.ones(batch.num_rows, bool)
        if len(columns) > 1:
            begins = batch.column(1).to_numpy(zero_copy_only=False)
        first = 0
        for texts in in_batches(batch.column(0).to_pylist()):
            yield texts, begins[first : first + len(texts)]
            first += len(texts)


class _Writer:
    """Writer of sequences to the files that `load_tokens` reads."""

    def __init__(self, folder: Path, template: Template, max_length: int, *, has_types: bool) -> None:
        self.template = template
        self.ids = (folder / "ids.bin").open("wb")
        self.types = (folder / "types.bin").open("wb") if has_types else None
        self.lengths = (folder / "lengths.npy").open("wb")
        write_header(self.lengths, np.int32, 0)
        self.counts = np.zeros(max_length + 1, np.int64)
        """Number of sequences of each length."""
        self.ends: list[int] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.ids, self.types, self.lengths):
            if file is not None:
                file.close()

    def write(self, sequences: Iterator[Segments]) -> None:
        """Write sequences with their special tokens."""
        for flat, lengths in sequences:
            ids, types, whole = assembled(flat, lengths, self.template)
            self.ids.write(ids.astype("<i4", copy=False).tobytes())
            if self.types is not None:
                self.types.write(types.tobytes())
            self.lengths.write(whole.astype(np.int32).tobytes())
            self.counts += np.bincount(whole, minlength=len(self.counts))

    def end_source(self) -> None:
        """Mark the end of a source's sequences."""
        self.ends.append(int(self.counts.sum()))

    def summary(self) -> SequenceSummary:
        """Complete the file of lengths, and return a summary of all sequences."""
        number = int(self.counts.sum())
        self.lengths.seek(0)
        write_header(self.lengths, np.int32, number)
        return SequenceSummary(
            sequences=number,
            tokens=int(self.counts @ np.arange(len(self.counts))),
            per_source=tuple(np.diff([0, *self.ends]).tolist()),
            length_percentiles=_percentiles(self.counts),
            full=int(self.counts[-1]) / number if number else 0.0,
        )


def _percentiles(counts: NDArray[np.int64]) -> dict[str, int]:
    """Return percentiles of lengths given by their counts, as `np.percentile` with the method `inverted_cdf`."""
    upto = np.cumsum(counts)
    number = int(upto[-1])
    ranks = {at: max(0, math.ceil(number * (at / 100) - 1)) for at in _PERCENTILES if number}
    return {str(at): int(np.searchsorted(upto, rank, side="right")) for at, rank in ranks.items()}
