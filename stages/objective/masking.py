"""Word masking for masked-language objectives, independent of how a step is cut into forward passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from schemas.core.errors import ConfigError
from stages.data.batching.choice_groups import Rows
from stages.data.batching.payloads import NO_WORD, MaskedWords
from stages.data.batching.tokens import Batch


@dataclass(frozen=True)
class Masking:
    """BERT's masking (Devlin et al. 2019, section 3.1): of chosen tokens, 80 % become [MASK], 10 % any, 10 % stay."""

    ratio: float
    """Share of real, non-special tokens that are chosen."""
    mask_token_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    seed: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, *, ratio: float, seed: int) -> Masking:
        """Return the masking that uses a tokenizer's mask token.

        Raises:
            ConfigError: the tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "objective.kind: masked_language needs a tokenizer with a mask token, and the teacher's has none; "
                "choose kind: latent, or another teacher"
            )
        special = tuple(sorted(tokenizer.all_special_ids))
        return cls(ratio, tokenizer.mask_token_id, special, len(tokenizer), seed)

    def mask(self, batch: Batch, rows: Rows, *, step: int) -> Batch:
        """Return the batch with words masked, chosen by seed, step and row number alone.

        At least one token of every row with a non-special token is chosen, so that no step is without a target.

        Args:
            batch: sequences on the CPU.
            rows: their row numbers in the data.
            step: optimizer step, so that a row is masked differently each time it is read.
        """
        ids = batch.input_ids.numpy().copy()
        labels = np.full_like(ids, NO_WORD)
        for index, row in enumerate(rows):
            random = np.random.Generator(np.random.PCG64([self.seed, step, int(row)]))
            length = int(batch.attention_mask[index].sum())
            words = np.flatnonzero(~np.isin(ids[index, :length], self.special_ids))
            if not len(words):
                continue
            chosen = words[random.random(len(words)) < self.ratio]
            if not len(chosen):
                chosen = words[[random.integers(len(words))]]
            labels[index, chosen] = ids[index, chosen]
            kind = random.random(len(chosen))
            others = random.integers(self.vocab_size, size=len(chosen))
            ids[index, chosen] = np.where(
                kind < 0.8, self.mask_token_id, np.where(kind < 0.9, others, ids[index, chosen])
            )
        return replace(batch, input_ids=torch.from_numpy(ids), targets=MaskedWords(torch.from_numpy(labels)))
