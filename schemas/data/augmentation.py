"""Augmentation of a task's training rows: the words that are replaced, by which, and how often."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.core.base import Frozen

StopWord = Annotated[str, Field(min_length=1, max_length=100)]


class Augmentation(Frozen):
    """Copies of the training rows with words replaced by likely ones, as in TinyBERT (Jiao et al. 2020, algorithm 1).

    The defaults are the paper's. Its authors' script makes 30 copies of CoLA, MRPC, STS-B and RTE, 20 of SST-2 and
    QNLI, and 10 of MNLI and QQP.
    """

    replace_probability: float = Field(default=0.4, gt=0, le=1)
    """Probability that a word of a copy is replaced (the paper's p_t)."""
    copies: int = Field(default=20, ge=1, le=1000)
    """Copies of each row besides the row itself (the paper's N_a); identical copies are kept once."""
    candidates: int = Field(default=15, ge=1, le=1000)
    """Number of equally likely replacements for a word (the paper's K)."""
    masked_language: Literal["auto", "required", "never"] = "auto"
    """True if the teacher predicts the candidates for words of one token; auto: if it has a masked-language head.

    Candidates for all other words are those with the nearest embeddings."""
    passes: int | None = Field(default=2, ge=2, le=1000)
    """Most passes of the model over a text; with n passes, each masks every n-th word. Two mask about as many tokens at
    once as pretraining does; null makes a pass for each word, as in the paper, and is many times slower."""
    embeddings: str | None = Field(default=None, min_length=1)
    """GloVe file (.txt or .vec, plain or .gz) of word embeddings; null for the teacher's embeddings."""
    stop_words: str | tuple[StopWord, ...] = "english"
    """Words that are never replaced: `english`, a list, or a file with one word per line."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds all draws."""
