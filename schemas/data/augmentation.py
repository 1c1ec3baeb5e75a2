"""Augmentation of a task's training rows: what may be replaced, by what, and how often. Nothing is opened here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.core.base import Frozen

StopWord = Annotated[str, Field(min_length=1, max_length=100)]


class Augmentation(Frozen):
    """Copies of the training rows with words replaced by likely others: TinyBERT's (Jiao et al. 2020, algorithm 1).

    The defaults are the paper's. Its authors' script makes 30 copies of CoLA, MRPC, STS-B and RTE, 20 of SST-2 and
    QNLI, and 10 of MNLI and QQP.
    """

    replace_probability: float = Field(default=0.4, gt=0, le=1)
    """How likely a word of a copy is replaced (the paper's p_t)."""
    copies: int = Field(default=20, ge=1, le=1000)
    """Copies of each row, beside the row itself (the paper's N_a); those that come out alike are kept once."""
    candidates: int = Field(default=15, ge=1, le=1000)
    """Words that may take the place of one, each as likely as the others (the paper's K)."""
    masked_language: Literal["auto", "required", "never"] = "auto"
    """Whether the teacher predicts the candidates of words that are one token; auto: if it has a masked-language head.

    Other words, and without the head all, get the words with the nearest embeddings."""
    passes: int | None = Field(default=2, ge=2, le=1000)
    """Most passes of the model over a text: in each, every so-manieth of its words is masked. Two mask about as many
    tokens at once as pretraining does; null makes a pass for each word, as the paper does, and is many times slower."""
    embeddings: str | None = Field(default=None, min_length=1)
    """GloVe file (.txt or .vec, plain or .gz) whose vectors say which words are near; null takes the teacher's own."""
    stop_words: str | tuple[StopWord, ...] = "english"
    """Words that are never replaced: `english`, a list, or a file with a word a line."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds every draw."""
