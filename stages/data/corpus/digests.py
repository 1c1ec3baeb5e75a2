"""Digests of a general corpus: of its rows, of its sequences, and of all that it is to a stage.

No path is part of them: a file that was moved is the same data.
"""

from __future__ import annotations

from schemas.core.base import digest_of
from schemas.data.corpus import AnyCut, GeneralCorpus, RowCut
from stages.data.corpus.leaks import held_out_digest
from stages.data.corpus.sources import source_identity
from stages.data.readers.first_reading import read_once
from stages.storage.format_versions import CORPUS_VERSION, SENTENCES_VERSION


def corpus_digest(corpus: GeneralCorpus) -> str:
    """Return the SHA-256 of a corpus as a stage sees it: the content of each source, the config, and the weights."""
    weights = [source.weight for source in corpus.sources if source.weight is not None]
    digest = cut_digest(corpus)
    return digest_of({"cut": digest, "weights": weights}) if weights else digest


def cut_digest(corpus: GeneralCorpus) -> str:
    """Return the SHA-256 of all that decides the sequences."""
    config = corpus.model_dump(mode="json", include={"cut", "max_length"})
    return digest_of({"rows": rows_digest(corpus), **config, **splitting(corpus.cut)})


def splitting(cut: AnyCut) -> dict[str, int]:
    """Return the version of sentence splitting, as part of a digest; empty for a cut that splits no sentences."""
    return {} if isinstance(cut, RowCut) else {"sentences": SENTENCES_VERSION}


def rows_digest(corpus: GeneralCorpus) -> str:
    """Return the SHA-256 of all that decides the rows; within a run, of its first reading."""
    return read_once("digest", corpus, lambda: _digest_of_rows(corpus))


def _digest_of_rows(corpus: GeneralCorpus) -> str:
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
