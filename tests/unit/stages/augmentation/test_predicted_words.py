"""Words predicted in batches equal those predicted one by one, for every family and number of passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from schemas.data.augmentation import Augmentation
from stages.augmentation import predicted_words
from stages.augmentation.candidates import CandidateFinder
from stages.augmentation.predicted_words import _passes
from stages.augmentation.stop_words import ENGLISH
from tests.support.augmenting import PlainAugmentor, word_teacher
from tests.support.builders import tiny_tokenizer
from tests.support.families import family_config
from tests.support.toys import toy_rows

TEXTS = [row["text_a"] for row in toy_rows(30, seed=5)]


def finder(folder: Path, **changes: object) -> CandidateFinder:
    config = Augmentation.model_validate({"candidates": 5, "passes": None, **changes})
    return CandidateFinder(config, folder, precision="fp32")


def test_neighbouring_words_are_masked_in_different_passes() -> None:
    texts = np.array([0] * 5 + [2] + [3] * 2)
    for most, turns in ((2, 2), (3, 3), (9, 5), (None, 5)):
        passes = _passes(texts, most)
        assert passes.texts.tolist() == [0] * turns + [2] + [3] * 2
        assert sorted(np.concatenate(passes.words)) == list(range(8))
        for text, words in zip(passes.texts, passes.words, strict=True):
            assert (texts[words] == text).all()
            assert (np.diff(words) == turns).all()


def test_predictions_do_not_depend_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = word_teacher(tmp_path)
    whole = finder(folder).find(TEXTS)
    assert whole == [finder(folder).find([text])[0] for text in TEXTS[:3]] + whole[3:]
    monkeypatch.setattr(predicted_words, "_BATCH_TOKENS", 40)
    monkeypatch.setattr(predicted_words, "_SCORES", 300)
    assert finder(folder).find(TEXTS) == whole


@torch.no_grad()
def test_each_pass_masks_every_nth_word(tmp_path: Path) -> None:
    folder, text = word_teacher(tmp_path), "plot film actor green music"
    plain = PlainAugmentor(folder, ENGLISH, 5)
    ids = plain.tokenizer(text)["input_ids"]

    def predicted(*masked: int) -> dict[int, list[str]]:
        changed = torch.tensor([ids])
        changed[0, list(masked)] = plain.tokenizer.mask_token_id
        logits = plain.model(changed).logits[0]
        words = text.split()
        return {target: plain._best(logits[target], words[target - 1]) for target in masked}

    def predictions(passes: int | None) -> dict[int, list[str]]:
        (targets,) = finder(folder, passes=passes).find([text])
        return {number: list(target.candidates) for number, target in enumerate(targets, start=1)}

    assert predictions(None) == predictions(5) == {target: predicted(target)[target] for target in range(1, 6)}
    assert predictions(2) == predicted(1, 3, 5) | predicted(2, 4)
    assert predictions(3) == predicted(1, 4) | predicted(2, 5) | predicted(3)
    assert predictions(None) != predictions(2)


@pytest.mark.parametrize(
    "family", "roberta electra distilbert albert modernbert mobilebert mpnet deberta-v2 rembert".split()
)
@torch.no_grad()
def test_prediction_head_runs_only_on_masked_positions_in_every_family(family: str, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_config(family_config(family)).eval()
    model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    texts = ["plot film", "a green film and blue plot"]
    result = finder(tmp_path, stop_words=[]).find(texts)
    for text, targets in zip(texts, result, strict=True):
        for number, target in enumerate(targets, start=1):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            ids[0, number] = tokenizer.mask_token_id
            ranked = model(ids, attention_mask=torch.ones_like(ids)).logits[0, number].argsort(descending=True)
            words = tokenizer.convert_ids_to_tokens(ranked[ranked < len(tokenizer)].tolist())
            original = text.split()[number - 1]
            assert (
                target.candidates
                == [word for word in words if word.isalpha() and word not in (original, *tokenizer.all_special_tokens)][
                    :5
                ]
            )
