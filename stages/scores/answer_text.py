"""Scores of an answer in words against the right answers, as the official scripts of SQuAD and CMRC 2018 compute them.

SQuAD's scores are those of evaluate-v2.0.py (Rajpurkar et al. 2018, arXiv:1806.03822), which for questions that all
have an answer are those of version 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250): lower case, without ASCII
punctuation, English articles and superfluous white space. No light library that is kept has the rule for questions
without an answer, so the two dozen lines stand here. They leave Chinese as it is, but take a run of it for one word: F1
is then no more than the exact match. CMRC's scores (Cui et al. 2019, arXiv:1810.07366) are for such text: each Chinese
character is a token, and F1 is that of the longest run which both answers share.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Both as CMRC's own script has them; it cuts the text between Chinese characters with nltk's tokenizer, which for the
# words, numbers and signs that are left there comes to the same as this pattern.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》……·、「」（）－～『』")
_CMRC_TOKEN = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+|[^\w\s]")

AnswerScore = Callable[[str, str], float]


def normal_form(answer: str) -> str:
    """Return an answer in lower case, without ASCII punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_ASCII_PUNCTUATION)).split())


def exact_match(right: str, predicted: str) -> float:
    """Return 1 where both are equal in SQuAD's normal form."""
    return float(normal_form(right) == normal_form(predicted))


def squad_f1(right: str, predicted: str) -> float:
    """Return the F1 of the words that both share in SQuAD's normal form."""
    right_words, predicted_words = normal_form(right).split(), normal_form(predicted).split()
    shared = (Counter(right_words) & Counter(predicted_words)).total()
    return _f1(shared, right_words, predicted_words)


def cmrc_exact_match(right: str, predicted: str) -> float:
    """Return 1 where both are equal in lower case without punctuation, Chinese or not."""
    return float(_cmrc_form(right) == _cmrc_form(predicted))


def cmrc_f1(right: str, predicted: str) -> float:
    """Return the F1 of the longest run of Chinese characters and other words that both share."""
    right_tokens = _CMRC_TOKEN.findall(_cmrc_form(right))
    predicted_tokens = _CMRC_TOKEN.findall(_cmrc_form(predicted))
    matcher = SequenceMatcher(a=right_tokens, b=predicted_tokens, autojunk=False)
    return _f1(matcher.find_longest_match().size, right_tokens, predicted_tokens)


def _cmrc_form(answer: str) -> str:
    return answer.lower().strip().translate(_CMRC_PUNCTUATION)


def _f1(shared: int, right: list[str], predicted: list[str]) -> float:
    """Return the F1 of tokens; where a side has none, 1 if both have none ("no answer")."""
    if not right or not predicted:
        return float(right == predicted)
    return 2 * shared / (len(right) + len(predicted))


def answer_scores(score: AnswerScore, right: Sequence[Sequence[str]], predicted: Sequence[str]) -> np.ndarray:
    """Return (questions,) the score of each answer against the nearest right one.

    Args:
        score: scores an answer against one right answer.
        right: the right answers to each question; none where the text holds no answer.
        predicted: the answer to each question; empty for "no answer".
    """
    return np.array(
        [
            max(score(one, answer) for one in _non_empty(score, answers))
            for answers, answer in zip(right, predicted, strict=True)
        ]
    )


def _non_empty(score: AnswerScore, answers: Sequence[str]) -> list[str]:
    """Return the right answers without those equal to "no answer", which would reward silence; [""] if none is left."""
    return [answer for answer in answers if not score(answer, "")] or [""]
