"""Words of a text, and the tokens that are their pieces."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


def words_of_tokens(words: list[str], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (tokens,) the word that each token is a piece of, -1 for special tokens.

    Args:
        words: words of one row; joined by single spaces they are the text.
        offsets: (tokens, 2) characters of the text that each token covers; some tokenizers include the space before.
    """
    ends = np.array([*accumulate(len(word) + 1 for word in words)])  # after the space that follows the word
    starts = ends - np.array([len(word) + 1 for word in words])
    first, past = offsets[:, 0], offsets[:, 1]
    # A token that begins at the space before a word is a piece of that word.
    word = np.searchsorted(ends, first + (np.isin(first, ends - 1) & (past > first)), side="right")
    word = np.minimum(word, len(words) - 1)
    covers = (past > first) & (past > starts[word])
    return np.where(covers, word, -1)


def first_pieces(word_of: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return (tokens,) True for the first piece of each word.

    The pieces of a word with a blank inside may form two runs, with a token between them that covers no character.

    Args:
        word_of: (tokens,) the word that each token is a piece of, ascending, -1 for none.
    """
    before = np.maximum.accumulate(np.concatenate([[-1], word_of[:-1]]))
    return np.asarray(word_of > before)
