"""Texts as bags of words: counts, and the text that shares most words with another."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import regex
from datasets import Dataset
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from schemas.core.errors import DataError
from stages.text.scripts import UNSPACED_LETTERS

_MAX_FEATURES = 200_000
# Words of two or more letters, as scikit-learn has them, and single letters of scripts other than Latin; in scripts
# without spaces between words, each letter is a word. A letter comes with its marks: unlike `re`, `regex` takes the
# vowel signs of Indian scripts for parts of words (Unicode Technical Standard 18, annex C). An emoji is a word.
_BY_THEMSELVES = rf"(?=[{UNSPACED_LETTERS}\p{{So}}])\X"
WORDS = rf"{_BY_THEMSELVES}|[^\W{UNSPACED_LETTERS}]{{2,}}|[^\W\p{{Latin}}\p{{N}}_{UNSPACED_LETTERS}]"
ALL_WORDS = rf"{_BY_THEMSELVES}|[^\W{UNSPACED_LETTERS}]+"
_ANYTHING = r"\w+|\S"

Vectorizer = TypeVar("Vectorizer", bound=CountVectorizer)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def fitted_vectors(
    vectorizer_class: type[Vectorizer], texts: Sequence[str], pattern: str, **limits: Any
) -> tuple[Vectorizer, csr_matrix]:
    """Return a vectorizer fitted on the words of some texts, and the texts' vectors.

    Where the limits leave no word, every word counts; where a text has no word, every sign does.

    Raises:
        DataError: no text has anything but spaces.
    """
    for words, options in ((pattern, limits), (pattern, limits | {"min_df": 1}), (_ANYTHING, {})):
        vectorizer = vectorizer_class(
            preprocessor=_composed, tokenizer=regex.compile(words).findall, token_pattern=None, **options
        )
        try:
            return vectorizer, vectorizer.fit_transform(texts)
        except ValueError:  # scikit-learn: empty vocabulary
            continue
    raise DataError("no row has anything but spaces; give texts")


def word_counts(texts: Sequence[str]) -> tuple[CountVectorizer, csr_matrix]:
    """Return a vectorizer of words and word pairs that occur in two or more texts, and the texts' vectors."""
    return fitted_vectors(
        CountVectorizer, texts, WORDS, ngram_range=(1, 2), min_df=2, binary=True, max_features=_MAX_FEATURES
    )


def pair_features(counter: CountVectorizer, first: Sequence[str], second: Sequence[str]) -> csr_matrix:
    """Return for each pair the words that both texts have, those that only one has, and the cosine of the two.

    Words of both texts in one bag could not tell whether the texts are alike.
    """
    one, other = counter.transform(first), counter.transform(second)
    shared = one.multiply(other)
    number, *sizes = (np.asarray(words.sum(axis=1), dtype=np.float64) for words in (shared, one, other))
    cosine = number / np.sqrt(np.maximum(sizes[0] * sizes[1], 1.0))
    return hstack([shared, abs(one - other), csr_matrix(cosine)]).tocsr()


def row_features(counter: CountVectorizer, rows: Dataset) -> csr_matrix:
    """Return the words of each row's text, or what `pair_features` says of its two texts."""
    if "text_pair" not in rows.column_names:
        return counter.transform(rows["text"])
    return pair_features(counter, rows["text"], rows["text_pair"])


def nearest(text: str, others: Sequence[str]) -> int:
    """Return the position of the text in `others` that shares most with `text`, rare words counting most."""
    _, vectors = fitted_vectors(TfidfVectorizer, [text, *others], ALL_WORDS)
    return int((vectors[1:] @ vectors[0].T).toarray().argmax())
