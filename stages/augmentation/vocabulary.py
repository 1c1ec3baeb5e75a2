"""Words of a vocabulary that may replace others, and the selection of those with the best scores.

These are the entries that the tokenizer makes of a word by itself: no pieces of words, no signs, no numbers, no special
tokens. The tokenizer is run to find them, so its way to mark pieces (##ing, Ġfilm, ▁film) does not matter.
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
"""Positions of words: after a space; after another character, for which many vocabularies have other entries; in a
script without spaces."""
_BLOCK = 64
_NOTHING = -1


class Lexicon:
    """Entries of a vocabulary with their words."""

    def __init__(self, words: Sequence[str], kinds: NDArray[np.bool_]) -> None:
        """Number the words, so that those that differ only in case share a number.

        Args:
            words: (entries,) the word of each, empty for none.
            kinds: (3, entries) whether it may be used at a position of each kind.
        """
        self.words, self.kinds = words, kinds
        numbers: dict[str, int] = {"": 0}
        self.forms = np.array([numbers.setdefault(word.lower(), len(numbers)) for word in words])
        self.numbers = numbers
        spare = np.bincount(self.forms[kinds.any(0)], minlength=1)
        self.most_alike = int(spare.max(initial=1))
        """Most entries of one word."""
        self._shut = lru_cache(maxsize=3)(self._make_shut)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Lexicon:
        """Return the whole words of a vocabulary; an entry's number is the token's id."""
        special = set(tokenizer.all_special_ids)
        decoded = [
            "" if number in special else text.strip()
            for number, text in enumerate(tokenizer.batch_decode([[number] for number in range(len(tokenizer))]))
        ]
        words = [word if is_letters(word) else "" for word in decoded]
        spaced = _made_by_itself(words, "a ", tokenizer)
        whole = {words[number] for number in np.flatnonzero(spaced)}
        # After another character any piece is a token by itself, so it must also be a word after a space.
        is_whole = np.array([word in whole for word in words])
        glued = _made_by_itself(words, "(", tokenizer) & is_whole
        unspaced = np.array([is_unspaced(word) for word in words])
        return cls(words, np.stack([spaced & ~unspaced, glued & ~unspaced, unspaced]))

    def number_of(self, word: str) -> int:
        """Return the number of a word in any case; -1 if no entry is that word."""
        return self.numbers.get(word.lower(), _NOTHING)

    def best(
        self, scores: Tensor, kind: int, number: int, *, but_forms: NDArray[np.int64], but_entries: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the best entries of each line, best first, each word once.

        Args:
            scores: (lines, entries); changed in place.
            kind: of the positions.
            number: entries per line.
            but_forms: (lines,) the word to leave out, as `number_of` gives it.
            but_entries: (lines,) the entry to leave out; -1 for none.

        Returns:
            (lines, number), padded with -1.
        """
        scores += self._shut(kind, scores.shape[1], scores.device)
        # Enough to remain once the word itself and repetitions are left out.
        wanted = min(len(self.words), (number + 1) * self.most_alike + 1)
        values, entries = (array.cpu().numpy() for array in highest(scores, wanted))
        kept = np.isfinite(values)
        forms = self.forms[np.where(kept, entries, 0)]
        kept &= (forms != but_forms[:, None]) & (entries != but_entries[:, None])
        if self.most_alike > 1:
            kept &= _first_of_each(np.where(kept, forms, -1 - np.arange(wanted)))
        rank = kept.cumsum(1)
        kept &= rank <= number
        best = np.full((len(entries), number), _NOTHING, np.int64)
        best[np.nonzero(kept)[0], rank[kept] - 1] = entries[kept]
        return best

    def _make_shut(self, kind: int, width: int, device: torch.device) -> Tensor:
        """Return a (width,) term for scores: 0 for entries of the kind, minus infinity for all others."""
        shut = np.where(self.kinds[kind], np.float32(0), np.float32(-np.inf))
        # A model may have more embeddings than its tokenizer has tokens.
        return pad(torch.from_numpy(shut), (0, width - len(shut)), value=-torch.inf).to(device)


def highest(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the highest values of each line and their indices, as `torch.topk`, in a fraction of its time on a CPU.

    They are in the blocks with the highest maxima, and a maximum is quick to find.
    """
    lines, width = scores.shape
    whole = width // _BLOCK
    if whole <= number:
        return scores.topk(min(number, width))
    blocks = scores[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK))
    chosen = blocks.amax(-1).topk(number).indices
    indices = (chosen[..., None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).flatten(1)
    rest = torch.arange(whole * _BLOCK, width, device=scores.device).expand(lines, -1)
    indices = torch.cat([indices, rest], 1)
    values, best = scores.gather(1, indices).topk(number)
    return values, indices.gather(1, best)


def _made_by_itself(words: Sequence[str], before: str, tokenizer: PreTrainedTokenizerFast) -> NDArray[np.bool_]:
    """Return which entries the tokenizer makes of their word after the text `before`."""
    numbers = [number for number, word in enumerate(words) if word]
    whole = np.zeros(len(words), bool)
    texts = [before + words[number] for number in numbers]
    encodings = tokenizer(texts, add_special_tokens=False).encodings if texts else []
    for number, text, encoding in zip(numbers, texts, encodings, strict=True):
        start, end = encoding.offsets[-1] if encoding.ids else (0, 0)
        # Some tokenizers include the space before a word.
        is_word = end == len(text) and text[start:end].strip() == words[number]
        whole[number] = encoding.ids[-1:] == [number] and is_word
    return whole


def _first_of_each(forms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask of the first occurrence of each number in its line."""
    order = np.argsort(forms, axis=1, kind="stable")
    ordered = np.take_along_axis(forms, order, 1)
    is_first = np.ones(forms.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    mask = np.empty(forms.shape, bool)
    np.put_along_axis(mask, order, is_first, 1)
    return mask
