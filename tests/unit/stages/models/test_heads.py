"""Heads of existing teachers: outputs are ordered by name, and mismatched heads are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig

from schemas.core.errors import DataError
from schemas.core.kinds import Classification, Embedding, Regression, TokenClassification
from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens
from stages.kinds.registry import kind_of
from stages.models.encoders import folder_digest, load_config, load_encoder
from stages.models.heads import output_names
from stages.models.read import read_rows
from stages.models.sentence_encoder import sentence_encoder, vector_width
from tests.support.builders import tiny_tokenizer
from tests.support.toys import toy_teacher

LABELS = ("contradiction", "entailment", "neutral")


def some_rows() -> Tokens:
    lengths = np.array([4, 6, 3], np.int32)
    ids = np.random.default_rng(0).integers(5, 60, int(lengths.sum())).astype(np.int32)
    return Tokens(ids, lengths, None, Payload(), 0, "rows", np.cumsum(lengths) - lengths)


def answers(model: Any) -> np.ndarray:
    read = read_rows(model, some_rows(), np.arange(3))
    assert read.logits is not None
    return np.stack(read.logits)


@pytest.mark.parametrize("upper", [False, True])
def test_a_teachers_classes_are_reordered_by_name(upper: bool, tmp_path: Path) -> None:
    teacher_labels = ("entailment", "neutral", "contradiction")
    names = tuple(name.upper() for name in teacher_labels) if upper else teacher_labels
    folder = toy_teacher(tmp_path, labels=names)
    before = answers(kind_of(Classification()).head.load(folder))
    model = kind_of(Classification()).head.load(folder)
    kind_of(Classification()).head.match_labels(model, LABELS, folder)
    after = answers(model)
    for index, label in enumerate(LABELS):
        np.testing.assert_array_equal(after[:, index], before[:, teacher_labels.index(label)])
    assert output_names(model.config) == LABELS


def test_classes_that_differ_only_in_case_stay_distinct(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path, labels=("pos", "Pos"))
    model = kind_of(Classification()).head.load(folder)
    before = answers(model)
    kind_of(Classification()).head.match_labels(model, ("Pos", "pos"), folder)
    np.testing.assert_array_equal(answers(model), before[:, ::-1])


def test_unnamed_classes_keep_their_order(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path, labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    model = kind_of(Classification()).head.load(folder)
    before = answers(model)
    kind_of(Classification()).head.match_labels(model, LABELS, folder)
    np.testing.assert_array_equal(answers(model), before)


@pytest.mark.parametrize(
    ("teacher_labels", "problem", "task_labels"),
    [
        (("yes", "no"), Classification(), LABELS),
        (("yes", "no", "perhaps"), Classification(), LABELS),
        (("yes", "no"), Regression(), ("value",)),
    ],
)
def test_outputs_that_differ_from_the_tasks_are_refused(
    teacher_labels: tuple[str, ...], problem: Any, task_labels: tuple[str, ...], tmp_path: Path
) -> None:
    folder = toy_teacher(tmp_path, labels=teacher_labels)
    model = kind_of(Classification()).head.load(folder)
    with pytest.raises(DataError, match="answers with yes, no") as caught:
        kind_of(problem).head.match_labels(model, task_labels, folder)
    assert "fine-tune another" in str(caught.value)


def test_a_head_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "classes", labels=LABELS)
    with pytest.raises(DataError, match="BertForSequenceClassification, but a token_class"):
        kind_of(TokenClassification()).head.check_trained(folder, "./teacher")
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "tags")
    with pytest.raises(DataError, match="BertForTokenClassification, but a regression"):
        kind_of(Regression()).head.check_trained(tmp_path / "tags", "./teacher")
    kind_of(TokenClassification()).head.check_trained(tmp_path / "tags", "./teacher")


def test_an_encoder_without_head_is_refused_unless_the_task_is_embedding(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path)
    with pytest.raises(DataError, match="has no trained classification head"):
        kind_of(Classification()).head.check_trained(folder, "./teacher")
    kind_of(Embedding()).head.check_trained(folder, "./teacher")


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_sentence_encoder_pools_projects_and_reloads(pooling: Any, tmp_path: Path) -> None:
    problem = Embedding(pooling=pooling)
    encoder = load_encoder(toy_teacher(tmp_path / "encoder"))
    model = sentence_encoder(encoder, problem, width=12, seed=3).eval()
    tokens = some_rows()
    predictions = answers(model)
    assert model.dense is not None
    weight, bias = model.dense.weight.detach().double(), model.dense.bias.detach().double()
    for row in range(3):
        batch = tokens.batch(np.array([row]))
        with torch.no_grad():
            states = encoder(**batch.model_inputs()).last_hidden_state[0].double()
        pooled = states[0] if pooling == "first" else states.mean(0)
        np.testing.assert_allclose(predictions[row], weight @ pooled + bias, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(answers(kind_of(problem).head.load(tmp_path / "saved")), predictions)
    assert vector_width(tmp_path / "saved", load_config(tmp_path / "saved")) == 12
    layout = json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    assert layout["pooling_mode_mean_tokens"] == (pooling == "mean")


def test_the_projection_of_a_sentence_encoder_is_part_of_its_digest(tmp_path: Path) -> None:
    encoder = load_encoder(toy_teacher(tmp_path / "encoder"))
    digests = set()
    for seed in (0, 1):
        model = sentence_encoder(encoder, Embedding(), width=12, seed=seed)
        model.save_pretrained(tmp_path / str(seed))
        digests.add(folder_digest(tmp_path / str(seed)))
    assert len(digests) == 2
