"""Tiny models that predict words, and a reference implementation of augmentation."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast

from tests.support.builders import tiny_tokenizer

POSITIONS = 24


def word_teacher(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A random BERT of two blocks with its masked-language head and without tied scores."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class PlainAugmentor:
    """Augments one word per forward pass, over the tiny tokenizer's lower-case English."""

    def __init__(self, folder: Path, kept: Collection[str], number: int) -> None:
        self.model = AutoModelForMaskedLM.from_pretrained(folder).eval()
        self.tokenizer = tiny_tokenizer()
        self.vocabulary = {id_: word for word, id_ in self.tokenizer.get_vocab().items()}
        self.kept, self.number = kept, number

    def candidates(self, text: str) -> dict[tuple[int, int], list[str]]:
        """Return the replacements for each replaceable position."""
        answers = {}
        ids = self.tokenizer(text)["input_ids"]
        if is_cut := len(ids) > POSITIONS:
            ids = [*ids[: POSITIONS - 1], self.tokenizer.sep_token_id]
        before = 1
        for match in re.finditer(r"\w+|[^\w\s]", text):
            pieces = self.tokenizer.tokenize(match.group())
            first, before = before, before + len(pieces)
            word = match.group()
            if is_cut and before >= len(ids) - 1:
                break  # the last word before the truncation may be incomplete
            if re.fullmatch("[a-z]+", word) and word not in self.kept:
                if len(pieces) == 1:
                    answers[match.span()] = self.predicted(ids, first, word)
                else:
                    answers[match.span()] = self.nearest(ids[first:before], word)
        return answers

    @torch.no_grad()
    def predicted(self, ids: list[int], position: int, word: str) -> list[str]:
        """Return the most probable words at a masked position."""
        ids = list(ids)
        ids[position] = self.tokenizer.mask_token_id
        return self._best(self.model(torch.tensor([ids])).logits[0, position], word)

    @torch.no_grad()
    def nearest(self, ids: list[int], word: str) -> list[str]:
        """Return the words whose embeddings are nearest to the mean of a word's pieces."""
        table = self.model.get_input_embeddings().weight
        mean = torch.stack([table[token] for token in ids]).mean(0)
        return self._best(torch.cosine_similarity(table, mean[None], dim=-1), word)

    def _best(self, scores: torch.Tensor, word: str) -> list[str]:
        ranked = [self.vocabulary[id_] for id_ in scores.argsort(descending=True).tolist()]
        whole = [candidate for candidate in ranked if re.fullmatch("[a-z]+", candidate) and candidate != word]
        return whole[: self.number]
