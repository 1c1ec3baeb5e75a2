"""What a general corpus is: the digests that its rows, its sequences and its stages are kept under.

Everything that names a place (path, cache) stays out of them: a moved file is the same data.
"""

from __future__ import annotations

from schemas.core.base import digest_of
from schemas.data.corpus import GeneralCorpus
from stages.data.corpus.leaks import held_out_digest
from stages.data.corpus.sources import source_identity
from stages.data.readers.first_reading import read_once

# Raise when the same files should give other rows.
CORPUS_VERSION = 3


def corpus_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what a corpus is to a stage: the content of each source, the config, and the weights."""
    weights = [source.weight for source in corpus.sources if source.weight is not None]
    digest = cut_digest(corpus)
    return digest_of({"cut": digest, "weights": weights}) if weights else digest


def cut_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what decides the sequences."""
    config = corpus.model_dump(mode="json", include={"cut", "max_length"})
    return digest_of({"rows": rows_digest(corpus), **config})


def rows_digest(corpus: GeneralCorpus) -> str:
    """SHA-256 of what decides the rows; within a run that of its first reading."""
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
