"""Candidates to replace each word of a text: predictions of a masked-language model, and nearest embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from schemas.core.errors import ConfigError
from schemas.data.augmentation import Augmentation
from stages.augmentation.nearest_words import GloveNeighbours, ModelNeighbours
from stages.augmentation.predicted_words import WordPredictor
from stages.augmentation.stop_words import stop_words
from stages.augmentation.vocabulary import Lexicon
from stages.augmentation.words import Word, find_words
from stages.device.runtime import Precision, Runtime
from stages.models.encoders import load_config, load_encoder, load_tokenizer, shape_of
from stages.models.masked_lm import has_word_head


class Replaceable(NamedTuple):
    """A word of a text that may be replaced."""

    start: int
    end: int
    candidates: Sequence[str]
    """At least one, likeliest first, in the case of the word."""


def uses_head(config: Augmentation, folder: Path) -> bool:
    """Return whether words are predicted by a masked-language head.

    Raises:
        ConfigError: one is required, but the folder has none.
        DataError: the folder has no readable model.
    """
    if config.masked_language == "never":
        return False
    has_head = has_word_head(folder)
    if config.masked_language == "required" and not has_head:
        raise ConfigError(
            f"augmentation.masked_language: required, but the teacher {folder} has no masked-language head (no such "
            "weights in its files); give the checkpoint that was pretrained on masked words, or set auto to use "
            "nearest embeddings instead"
        )
    return has_head


class CandidateFinder:
    """Finds the candidates of all words of many texts at once."""

    def __init__(
        self,
        config: Augmentation,
        folder: Path,
        between: Callable[[], None] = lambda: None,
        *,
        precision: Precision = "auto",
    ) -> None:
        """Load the model and the files that candidates come from.

        Args:
            config: the settings.
            folder: the teacher.
            between: called before every forward pass.
            precision: number format of the passes.

        Raises:
            ConfigError: the teacher lacks the required head, or a mask token.
            DataError: a file of the settings, or the teacher, cannot be used.
        """
        self.config, model = config, load_config(folder)
        self.tokenizer = load_tokenizer(folder, model)
        self.max_length = shape_of(model).max_positions
        self.kept = stop_words(config)
        self.lexicon = Lexicon.of(self.tokenizer)
        self.neighbours: GloveNeighbours | ModelNeighbours
        if config.embeddings is not None:
            self.neighbours = GloveNeighbours(config.embeddings)
        else:
            inputs: nn.Module = load_encoder(folder).get_input_embeddings()
            table = inputs.get_parameter("weight").detach()
            self.neighbours = ModelNeighbours(self.lexicon, table, self.tokenizer.unk_token_id)
        self.predictor: WordPredictor | None = None
        self.notes: list[str] = []
        """Messages for the user."""
        if uses_head(config, folder):
            self.predictor = self._predictor(folder, between, precision)
        elif config.masked_language == "auto":
            self.notes.append(
                f"the teacher {folder} has no masked-language head, so the candidates of every word are those with the "
                "nearest embeddings, whatever its context"
            )

    def _predictor(self, folder: Path, between: Callable[[], None], precision: Precision) -> WordPredictor:
        mask_token = self.tokenizer.mask_token_id
        if mask_token is None:
            raise ConfigError(
                f"augmentation.masked_language: {self.config.masked_language}, but the tokenizer in {folder} has no "
                "mask token, so no word can be predicted; set never, or give another teacher"
            )
        return WordPredictor(
            folder, self.lexicon, Runtime(precision), mask_token=mask_token, passes=self.config.passes, between=between
        )

    def find(self, texts: Sequence[str]) -> list[list[Replaceable]]:
        """Return the words of each text that have candidates, in their order.

        Args:
            texts: all different.
        """
        sequences = find_words(texts, self.tokenizer, max_length=self.max_length, kept=self.kept)
        number = self.config.candidates
        predicted = [word for word in sequences.words if word.is_one_token] if self.predictor is not None else []
        others: list[Word] = [word for word in sequences.words if self.predictor is None or not word.is_one_token]
        candidates = dict(zip(others, self.neighbours.of(others, sequences.tokens, number), strict=True))
        if self.predictor is not None:
            likeliest = self.predictor.likeliest(sequences, predicted, number)
            for word, ids in zip(predicted, likeliest, strict=True):
                candidates[word] = [self.lexicon.words[token] for token in ids]
        replaceable: list[list[Replaceable]] = [[] for _ in texts]
        for word in sequences.words:
            if candidates[word]:
                cased = _in_case_of(word.written, candidates[word])
                replaceable[word.text].append(Replaceable(word.start, word.end, cased))
        return replaceable


def _in_case_of(written: str, others: Sequence[str]) -> Sequence[str]:
    """Return candidates in the case of the word that they replace, except those that have capitals themselves."""
    if not written[:1].isupper():
        return others
    is_loud = len(written) > 1 and written.isupper()
    return [
        other if not other.islower() else other.upper() if is_loud else other[:1].upper() + other[1:]
        for other in others
    ]
