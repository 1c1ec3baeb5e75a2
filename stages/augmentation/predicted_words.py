"""Predictions of a masked-language model for very many words at once.

One forward pass takes texts of similar length, each with some of its words masked; the head, whose product with the
whole vocabulary would cost as much as the encoder, runs on the masked positions only.
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

# Padded tokens of one forward pass; not a setting, because the rows of a batch decide how sums are rounded.
_BATCH_TOKENS = 8192
# Scores held at a time: 16 MB, which a processor's cache nearly takes.
_SCORES = 1 << 22


@dataclass(frozen=True)
class _Passes:
    """Texts to run with some of their words masked."""

    texts: Rows
    """(passes,) the text of each."""
    words: list[Rows]
    """Numbers of the words that are masked in each pass."""


class _FixedStates(nn.Module):
    """Replacement of a model's encoder that returns states set from outside, so that the head runs alone."""

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
            folder: a transformers folder with a masked-language head.
            lexicon: of its vocabulary.
            runtime: device and number format.
            mask_token: its id.
            passes: most passes over a text; None for one pass per word.
            between: called before every forward pass.
        """
        model = load_word_model(folder)
        self.head, prefix = runtime.frozen(model), model.base_model_prefix
        self.encoder, self.fixed = getattr(self.head, prefix), _FixedStates()
        setattr(self.head, prefix, self.fixed)
        self.lexicon, self.device, self.between = lexicon, runtime.device, between
        self.mask_token, self.passes = mask_token, passes

    @torch.inference_mode()
    def likeliest(self, sequences: Sequences, words: Sequence[Word], number: int) -> list[NDArray[np.int64]]:
        """Return the ids of the likeliest whole words at the position of each word, likeliest first.

        Args:
            sequences: the texts.
            words: words of one token each, in the order of their texts.
            number: most ids per word.
        """
        if not words:
            return []
        tokens = sequences.tokens
        positions = np.array([word.first for word in words], np.int64)
        texts = np.array([word.text for word in words], np.int64)
        forms = np.array([self.lexicon.number_of(word.written) for word in words])
        ids = tokens.ids[tokens.starts[texts] + positions].astype(np.int64)
        unspaced = np.array([is_unspaced(word.written) for word in words])
        kinds = np.where(unspaced, UNSPACED, np.where(self.lexicon.kinds[SPACED][ids], SPACED, GLUED))
        best = np.full((len(words), number), -1, np.int64)
        passes = _passes(texts, self.passes)
        at_once = max(1, _SCORES // len(self.lexicon.words) // HEIGHT) * HEIGHT
        for batch in _batches(tokens.lengths[passes.texts]):
            self.between()
            masked = np.concatenate([passes.words[number] for number in batch])
            lines = np.repeat(np.arange(len(batch)), [len(passes.words[number]) for number in batch])
            states = self._states(sequences, passes.texts[batch], lines, positions[masked])
            for kind in np.unique(kinds[masked]):
                of_kind = np.flatnonzero(kinds[masked] == kind)
                for start in range(0, len(of_kind), at_once):
                    part = of_kind[start : start + at_once]
                    some = masked[part]
                    best[some] = self.lexicon.best(
                        self._scores(states[torch.from_numpy(part)]),
                        kind,
                        number,
                        but_forms=forms[some],
                        but_entries=ids[some],
                    )
        return [line[line >= 0] for line in best]

    def _states(self, sequences: Sequences, texts: Rows, lines: Rows, positions: Rows) -> Tensor:
        """Return the encoder's last states at the masked words of a batch, (words, width)."""
        batch = sequences.tokens.batch(texts)
        at_masks = (torch.from_numpy(lines), torch.from_numpy(positions))
        batch.input_ids[at_masks] = self.mask_token
        states: Tensor = self.encoder(**batch.to(self.device).model_inputs())[0]
        return states[at_masks]

    def _scores(self, states: Tensor) -> Tensor:
        """Return the head's scores of the vocabulary, (words, ids)."""
        self.fixed.states = states[None]
        scores: Tensor = self.head(inputs_embeds=self.fixed.states).logits[0].float()
        return scores


def _batches(lengths: NDArray[np.int32]) -> list[Rows]:
    """Return all sequences by length, mostly in multiples of `HEIGHT`, so that products need no padding."""
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, range(HEIGHT, len(order), HEIGHT))
    sizes = np.array([HEIGHT * lengths[group[-1]] for group in groups])
    return [np.concatenate([groups[index] for index in some]) for some in evaluation_batches(sizes, _BATCH_TOKENS)]


def _passes(texts: Rows, most: int | None) -> _Passes:
    """Distribute each text's words over its passes in turn, so that no two neighbours are masked at once."""
    of_text: list[int] = []
    words: list[Rows] = []
    for group in np.split(np.arange(len(texts)), np.flatnonzero(np.diff(texts)) + 1):
        number = len(group) if most is None else min(most, len(group))
        of_text += [int(texts[group[0]])] * number
        words += [group[turn::number] for turn in range(number)]
    return _Passes(np.array(of_text, np.int64), words)
