"""Words that may take another's place, and which of them score best.

Of a tokenizer's vocabulary these are the entries that it makes of a word by itself: no pieces of words, no signs, no
numbers, no special tokens. How a tokenizer writes its pieces (##ing, Ġfilm, ▁film) is not asked: it is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerFast

from stages.text.scripts import is_letters, is_unspaced

SPACED, GLUED, UNSPACED = range(3)
"""Kinds of places: after a space; without one before, where many vocabularies have other entries; in a script that has
none."""
_BLOCK = 64
_NOTHING = -1


class Lexicon:
    """Entries with the words they stand for."""

    def __init__(self, words: Sequence[str], kinds: NDArray[np.bool_]) -> None:
        """Number the words so that those that differ in case alone have one number.

        Args:
            words: (entries,) what each is, empty for no word.
            kinds: (3, entries) whether it may stand at a place of each kind.
        """
        self.words, self.kinds = words, kinds
        numbers: dict[str, int] = {"": 0}
        self.forms = np.array([numbers.setdefault(word.lower(), len(numbers)) for word in words])
        self.numbers = numbers
        spare = np.bincount(self.forms[kinds.any(0)], minlength=1)
        self.most_alike = int(spare.max(initial=1))
        """Entries of the word that has the most."""
        self._shut = lru_cache(maxsize=3)(self._make_shut)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Lexicon:
        """The whole words of a vocabulary; an entry's number is the token's id."""
        special = set(tokenizer.all_special_ids)
        decoded = [
            "" if number in special else text.strip()
            for number, text in enumerate(tokenizer.batch_decode([[number] for number in range(len(tokenizer))]))
        ]
        words = [word if is_letters(word) else "" for word in decoded]
        spaced = _made_by_itself(words, "a ", tokenizer)
        whole = {words[number] for number in np.flatnonzero(spaced)}
        # Glued to what stands before it, any piece is made by itself: it has to be a word elsewhere.
        is_whole = np.array([word in whole for word in words])
        glued = _made_by_itself(words, "(", tokenizer) & is_whole
        unspaced = np.array([is_unspaced(word) for word in words])
        return cls(words, np.stack([spaced & ~unspaced, glued & ~unspaced, unspaced]))

    def number_of(self, word: str) -> int:
        """The number that stands for `word` in any case; -1 where no entry is that word."""
        return self.numbers.get(word.lower(), _NOTHING)

    def best(
        self, scores: Tensor, kind: int, number: int, *, but_forms: NDArray[np.int64], but_entries: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The best entries of each line, best first, each word once.

        Args:
            scores: (lines, entries); changed in place.
            kind: of the places.
            number: how many.
            but_forms: (lines,) the word that is left out, as `number_of` gives it.
            but_entries: (lines,) an entry that is left out; -1 for none.

        Returns:
            (lines, number), -1 where there are fewer.
        """
        scores += self._shut(kind, scores.shape[1], scores.device)
        # So many that enough are left when the word itself and repetitions are taken out.
        wanted = min(len(self.words), (number + 1) * self.most_alike + 1)
        values, found = (each.cpu().numpy() for each in highest(scores, wanted))
        kept = np.isfinite(values)
        forms = self.forms[np.where(kept, found, 0)]
        kept &= (forms != but_forms[:, None]) & (found != but_entries[:, None])
        if self.most_alike > 1:
            kept &= _first_of_each(np.where(kept, forms, -1 - np.arange(wanted)))
        rank = kept.cumsum(1)
        kept &= rank <= number
        answer = np.full((len(found), number), _NOTHING, np.int64)
        answer[np.nonzero(kept)[0], rank[kept] - 1] = found[kept]
        return answer

    def _make_shut(self, kind: int, width: int, device: torch.device) -> Tensor:
        """(width,) to add to a line of scores: nothing where an entry may stand, minus infinity where not."""
        shut = np.where(self.kinds[kind], np.float32(0), np.float32(-np.inf))
        # A model may have more embeddings than its tokenizer has tokens.
        return pad(torch.from_numpy(shut), (0, width - len(shut)), value=-torch.inf).to(device)


def highest(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The highest of each line and their places, as `torch.topk` gives them, in a fraction of its time on a CPU.

    They lie in the blocks with the highest maxima, and finding a maximum is quick.
    """
    lines, width = scores.shape
    whole = width // _BLOCK
    if whole <= number:
        return scores.topk(min(number, width))
    blocks = scores[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK))
    chosen = blocks.amax(-1).topk(number).indices
    places = (chosen[..., None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).flatten(1)
    rest = torch.arange(whole * _BLOCK, width, device=scores.device).expand(lines, -1)
    places = torch.cat([places, rest], 1)
    values, found = scores.gather(1, places).topk(number)
    return values, places.gather(1, found)


def _made_by_itself(words: Sequence[str], before: str, tokenizer: PreTrainedTokenizerFast) -> NDArray[np.bool_]:
    """Which entries the tokenizer makes of their own word when `before` stands before it."""
    asked = [number for number, word in enumerate(words) if word]
    found = np.zeros(len(words), bool)
    texts = [before + words[number] for number in asked]
    encoded = tokenizer(texts, add_special_tokens=False).encodings if texts else []
    for number, text, each in zip(asked, texts, encoded, strict=True):
        start, end = each.offsets[-1] if each.ids else (0, 0)
        # Some tokenizers count the space before a word in.
        found[number] = each.ids[-1:] == [number] and end == len(text) and text[start:end].strip() == words[number]
    return found


def _first_of_each(forms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where each number stands for the first time in its line."""
    order = np.argsort(forms, axis=1, kind="stable")
    ordered = np.take_along_axis(forms, order, 1)
    is_first = np.ones(forms.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    answer = np.empty(forms.shape, bool)
    np.put_along_axis(answer, order, is_first, 1)
    return answer
