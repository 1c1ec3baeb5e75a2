"""Properties of writing systems: letters, their marks, and scripts that put no space between words."""

from __future__ import annotations

import re
import unicodedata

UNSPACED_LETTERS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts that put no space between words, for a class of `re`: Thai and Lao, Myanmar, Khmer, the two
kana, and Chinese characters."""
_STARTS_UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")


def is_letters(word: str) -> bool:
    """Whether a word has letters and their marks alone."""
    return word.isalpha() or (word[:1].isalpha() and all(char.isalpha() or is_mark(char) for char in word))


def is_unspaced(word: str) -> bool:
    """Whether a word's script puts no space between words."""
    return _STARTS_UNSPACED.match(word) is not None


def is_mark(char: str) -> bool:
    """Whether a character is a combining mark."""
    return unicodedata.category(char).startswith("M")
