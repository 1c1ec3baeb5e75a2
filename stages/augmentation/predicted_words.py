"""What a masked-language model puts in the place of words, asked for very many words at once.

One forward pass takes texts of like length, each with some of its words masked; the head, whose product with the whole
vocabulary would cost as much as the encoder, sees the masked places alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from stages.augmentation.vocabulary import GLUED, SPACED, UNSPACED, Lexicon
from stages.augmentation.words import Sequences, Word
from stages.data.batching.batches import evaluation_batches
from stages.data.batching.choice_groups import Rows
from stages.device.even_linear import HEIGHT
from stages.device.runtime import Runtime
from stages.models.masked_lm import load_word_model
from stages.text.scripts import is_unspaced

# Padded tokens of one forward pass; not a setting, because the rows that stand together decide how a sum is rounded.
_BATCH_TOKENS = 8192
# Scores held at a time: 16 MB, which a processor's cache nearly takes.
_SCORES = 1 << 22


@dataclass(frozen=True)
class _Passes:
    """Sequences to run: texts with some of their words masked."""

    texts: Rows
    """(passes,)."""
    words: list[Rows]
    """For each pass, numbers of the words that are asked for in it."""


class _Given(nn.Module):
    """Stands where a model's encoder was and answers with states that it was handed, so that the head runs alone."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.states)


class WordPredictor:
    """A model with its masked-language head."""

    def __init__(
        self,
        folder: Path,
        lexicon: Lexicon,
        runtime: Runtime,
        *,
        mask_token: int,
        passes: int | None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Load the model.

        Args:
            folder: a transformers folder with such a head.
            lexicon: of its vocabulary.
            runtime: device and number format.
            mask_token: its id.
            passes: most passes over a text; None for one for each word.
            between: called before every forward pass.
        """
        model = load_word_model(folder)
        self.head, prefix = runtime.frozen(model), model.base_model_prefix
        self.encoder, self.given = getattr(self.head, prefix), _Given()
        setattr(self.head, prefix, self.given)
        self.lexicon, self.device, self.between = lexicon, runtime.device, between
        self.mask_token, self.passes = mask_token, passes

    @torch.inference_mode()
    def likeliest(self, sequences: Sequences, words: Sequence[Word], number: int) -> list[NDArray[np.int64]]:
        """Ids of the whole words that the model finds likeliest in the place of each word, likeliest first.

        Args:
            sequences: the texts.
            words: words of one token each, in the order of their texts.
            number: how many at most.
        """
        if not words:
            return []
        tokens = sequences.tokens
        places = np.array([word.first for word in words], np.int64)
        texts = np.array([word.text for word in words], np.int64)
        own = tokens.ids[tokens.starts[texts] + places].astype(np.int64)
        kinds = self._kinds(words, own)
        found = np.full((len(words), number), -1, np.int64)
        passes = _passes(texts, self.passes)
        for batch in _batches(tokens.lengths[passes.texts]):
            self.between()
            asked = np.concatenate([passes.words[one] for one in batch])
            lines = np.repeat(np.arange(len(batch)), [len(passes.words[one]) for one in batch])
            states = self._states(sequences, passes.texts[batch], lines, places[asked])
            for kind in np.unique(kinds[asked]):
                of_kind = np.flatnonzero(kinds[asked] == kind)
                found[asked[of_kind]] = self._best(
                    states[torch.from_numpy(of_kind)], kind, words, asked[of_kind], own, number
                )
        return [line[line >= 0] for line in found]

    def _kinds(self, words: Sequence[Word], own: NDArray[np.int64]) -> NDArray[np.int64]:
        unspaced = np.array([is_unspaced(word.written) for word in words])
        return np.where(unspaced, UNSPACED, np.where(self.lexicon.kinds[SPACED][own], SPACED, GLUED))

    def _states(self, sequences: Sequences, texts: Rows, lines: Rows, places: Rows) -> Tensor:
        """(words, width) what the encoder ends with at the masked words of a batch."""
        batch = sequences.tokens.batch(texts)
        where = (torch.from_numpy(lines), torch.from_numpy(places))
        batch.input_ids[where] = self.mask_token
        states: Tensor = self.encoder(**batch.to(self.device).model_inputs())[0]
        return states[where]

    def _best(
        self, states: Tensor, kind: int, words: Sequence[Word], asked: Rows, own: NDArray[np.int64], number: int
    ) -> NDArray[np.int64]:
        at_once = max(1, _SCORES // len(self.lexicon.words) // HEIGHT) * HEIGHT
        parts = []
        for start in range(0, len(states), at_once):
            some = asked[start : start + at_once]
            self.given.states = states[None, start : start + at_once]
            scores = self.head(inputs_embeds=self.given.states).logits[0].float()
            forms = np.array([self.lexicon.number_of(words[one].written) for one in some])
            parts.append(self.lexicon.best(scores, kind, number, but_forms=forms, but_entries=own[some]))
        return np.concatenate(parts)


def _batches(lengths: NDArray[np.int32]) -> list[Rows]:
    """Every sequence once, by length, and mostly a multiple of `HEIGHT` together, so that no product is filled up."""
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, range(HEIGHT, len(order), HEIGHT))
    sizes = np.array([HEIGHT * lengths[group[-1]] for group in groups])
    return [np.concatenate([groups[one] for one in some]) for some in evaluation_batches(sizes, _BATCH_TOKENS)]


def _passes(texts: Rows, most: int | None) -> _Passes:
    """Which words are asked for together: those of one text, in turn, so that no two neighbours are masked at once."""
    of_text: list[int] = []
    words: list[Rows] = []
    for own in np.split(np.arange(len(texts)), np.flatnonzero(np.diff(texts)) + 1):
        number = len(own) if most is None else min(most, len(own))
        of_text += [int(texts[own[0]])] * number
        words += [own[turn::number] for turn in range(number)]
    return _Passes(np.array(of_text, np.int64), words)
