"""From a general corpus to the flat arrays of `Tokens`: cut as the corpus says, tokenised once, then read from disk.

A quarter of a megabyte of text is in memory at a time, with its tokens. The tokenizer's own threads do the work, and
nothing is done for each token by Python. Tokens and lengths are written to their files as they come.
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
from stages.data.corpus.segment import Cut, EachPiece, Made, Packed, SegmentPairs
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
    """Training and held-out sequences, cut as the corpus says; each with special tokens.

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
    """What became of a corpus: rows, duplicates and leaks of each source; with a tokenizer, its sequences too.

    Raises:
        DataError: as `load_corpus` and `tokenize_corpus`.
    """
    summary = read_summary(corpus, cache)
    if tokenizer is None:
        return summary
    rows = load_corpus(corpus, cache)
    _, folder = _tokens(rows, "train", tokenizer, corpus.max_length, cache)
    found = _read_summary(folder)
    return summary.model_copy(update={"sequences": found, "cut": corpus.cut.kind})


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
        making = _Making(rows.cut, rows.seed, tokenizer, max_length)
        making.fill(text, sources or (len(text),), beside)

    found, folder = kept_tokens(cache, digest, int(tokenizer.pad_token_id), fill)
    weighted = split == "train" and rows.weights is not None
    per_source = _read_summary(folder).per_source if weighted else ()
    if 0 in per_source:
        raise DataError(
            f"general_corpus.sources[{per_source.index(0)}]: no token is left of its text with this tokenizer, so it "
            "can have no weight; take it off the list"
        )
    return found, folder


class _Making:
    """Makes the files of a folder of tokens."""

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
                    taken = min(len(texts), left[0])
                    writer.write(self._made(cut, texts[:taken], begins[:taken]))
                    texts, begins = texts[taken:], begins[taken:]
                    left[0] -= taken
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

    def _made(self, cut: Cut, texts: Sequence[str], begins: NDArray[np.bool_]) -> Iterator[Made]:
        documents = self.document + np.cumsum(begins)
        self.document = int(documents[-1]) if len(documents) else self.document
        if not isinstance(self.cut, RowCut):
            sentences = [split_sentences(text) for text in texts]
            documents = np.repeat(documents, [len(some) for some in sentences])
            texts = [sentence for some in sentences for sentence in some]
        if texts:
            flat, lengths = self.encoder.encode(texts)
            # Characters that the tokenizer drops leave nothing of a piece.
            kept = lengths > 0
            if kept.any():
                yield from cut.add(flat, lengths[kept], documents[kept])


def _chunks(rows: Dataset) -> Iterator[tuple[Sequence[str], NDArray[np.bool_]]]:
    """Some text at a time, and which rows follow none of the row before."""
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
    """Writes sequences to the files that `load_tokens` reads."""

    def __init__(self, folder: Path, template: Template, max_length: int, *, has_types: bool) -> None:
        self.template = template
        self.ids = (folder / "ids.bin").open("wb")
        self.types = (folder / "types.bin").open("wb") if has_types else None
        self.lengths = (folder / "lengths.npy").open("wb")
        write_header(self.lengths, np.int32, 0)
        self.counts = np.zeros(max_length + 1, np.int64)
        """Sequences of each length."""
        self.ends: list[int] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.ids, self.types, self.lengths):
            if file is not None:
                file.close()

    def write(self, made: Iterator[Made]) -> None:
        """Put what stands around the texts around them, and write them."""
        for flat, lengths in made:
            ids, types, whole = assembled(flat, lengths, self.template)
            self.ids.write(ids.astype("<i4", copy=False).tobytes())
            if self.types is not None:
                self.types.write(types.tobytes())
            self.lengths.write(whole.astype(np.int32).tobytes())
            self.counts += np.bincount(whole, minlength=len(self.counts))

    def end_source(self) -> None:
        """What comes now is of another source."""
        self.ends.append(int(self.counts.sum()))

    def summary(self) -> SequenceSummary:
        """Say in the file of the lengths how many they are, and sum up what was written."""
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
    """What `np.percentile` says by the method `inverted_cdf` of lengths of which only their numbers are known."""
    upto = np.cumsum(counts)
    number = int(upto[-1])
    places = {at: max(0, math.ceil(number * (at / 100) - 1)) for at in _PERCENTILES if number}
    return {str(at): int(np.searchsorted(upto, place, side="right")) for at, place in places.items()}
