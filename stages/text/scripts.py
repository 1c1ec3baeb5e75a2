"""Properties of writing systems and of single words: letters, combining marks, scripts without spaces, numbers.

This is the one table of scripts that put no space between words. The evaluation script of CMRC 2018 has a narrower
range of Chinese characters (U+4E00 to U+9FA5); `stages.scores.answer_text` keeps it, since a published score depends
on it.
"""

from __future__ import annotations

import re
import unicodedata

CHARACTER_WORDS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""First and last code point of kana and of each block of ideographs, whose characters count as a word each."""
_SYLLABLE_SCRIPTS = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))
"""Thai and Lao, Myanmar, Khmer: no spaces between words either, but a single character is no word."""

UNSPACED_LETTERS = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_SYLLABLE_SCRIPTS, *CHARACTER_WORDS))
"""Letters of all scripts without spaces between words, as the inside of a character class of `re`."""
_STARTS_UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")


def is_letters(word: str) -> bool:
    """Return whether a word consists of letters and their combining marks."""
    return word.isalpha() or (word[:1].isalpha() and all(char.isalpha() or is_mark(char) for char in word))


def is_unspaced(word: str) -> bool:
    """Return whether a word begins in a script without spaces between words."""
    return _STARTS_UNSPACED.match(word) is not None


def is_mark(char: str) -> bool:
    """Return whether a character is a combining mark."""
    return unicodedata.category(char).startswith("M")


def is_number(text: str) -> bool:
    """Return whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
