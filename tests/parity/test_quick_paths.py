"""Optimised code paths give the same results: even products, oneDNN's, kept memory, clipping, unmasked scores."""

from __future__ import annotations

import copy
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch
from stages.device.even_linear import HEIGHT, EvenLinear, even_linears
from stages.device.onednn import OneDnnLinear, multiplies
from stages.device.runtime import Runtime, keep_freed_memory, return_freed_memory
from stages.losses import Summed, attention_score_loss, attention_scores
from stages.models.attention_capture import CAPTURE
from stages.objective.terms import Needs, run_model
from stages.ports.plain import plain_ports
from stages.training import teachers
from stages.training.trainer import Trainer
from stages.training.truncate import shorten
from tests.support.families import CAPTURED, FAMILIES, READABLE, family_config
from tests.support.toys import make_trainer, toy_recipe

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("shape", [(3, 7), (1, HEIGHT), (5, 13), (2, 2, 9), (HEIGHT + 1,), (1,)])
@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16])
def test_an_even_matrix_product_equals_a_plain_one(shape: tuple[int, ...], number: torch.dtype) -> None:
    plain = nn.Linear(24, 40).to(number)
    even = copy.deepcopy(plain)
    even_linears(nn.ModuleList([even]))
    assert isinstance(even, EvenLinear)
    inputs, weights = (torch.randn(*shape, width, dtype=number) for width in (24, 40))
    answers: list[list[Tensor | None]] = []
    for layer in (plain, even):
        leaf = inputs.clone().requires_grad_()
        answer = layer(leaf)
        (answer * weights).sum().backward()
        answers.append([answer, leaf.grad, layer.weight.grad, layer.bias.grad])
    allowed = TOLERANCE[number]
    torch.testing.assert_close(answers[1], answers[0], rtol=allowed, atol=allowed)


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_a_product_by_onednn_has_gradients_only_for_what_is_trained(frozen: str) -> None:
    torch.manual_seed(0)
    arguments = {"input": torch.randn(37, 24), "weight": torch.randn(40, 24), "bias": torch.randn(40)}
    upstream = torch.randn(37, 40)
    gradients: list[list[Tensor | None]] = []
    for product in (nn.functional.linear, lambda *given: OneDnnLinear.apply(*given, HEIGHT)):
        leaves = [value.clone().requires_grad_(name != frozen) for name, value in arguments.items()]
        (product(*leaves) * upstream).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


def test_float32_products_use_onednn_outside_of_autocast_only() -> None:
    states, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert multiplies(states, weight) == (platform.machine() in ("x86_64", "AMD64"))
    assert not multiplies(states.bfloat16(), weight.bfloat16())
    assert not multiplies(states.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not multiplies(states, weight)


def test_even_products_change_linear_layers_only() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Own(4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    even_linears(model)
    assert [type(layer) for layer in model] == [EvenLinear, nn.LayerNorm, Own]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_even_only_where_kernels_are_compiled(precision: str) -> None:
    runtime = Runtime(precision)  # type: ignore[arg-type]
    expected = runtime.device.type == "cpu"
    for model in (nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))):
        read = runtime.frozen(model)
        assert any(isinstance(layer, EvenLinear) for layer in read.modules()) == expected
        assert not any(isinstance(layer, EvenLinear) for layer in model.modules())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    assert keep_freed_memory()
    assert keep_freed_memory(), "a second call is harmless"

    def resident() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0])

    return_freed_memory()
    before = resident()
    pieces = [torch.ones(1 << 20) for _ in range(64)]
    held = resident()
    assert held - before > 200_000, "64 tensors of 4 MiB should be resident"
    del pieces
    assert resident() > held - 50_000, "freed memory should be kept"
    return_freed_memory()
    assert resident() < held - 200_000, "memory should be returned after a stage"


def scores_of(mask: Tensor, *, width: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    query, key = (torch.randn(*mask.shape, 3, width).transpose(1, 2) for _ in range(2))
    return attention_scores(query, key, mask, scaling=0.3)


def test_scores_with_zeros_at_padding_need_no_mask() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    student, teacher = scores_of(mask, width=8, seed=1), scores_of(mask, width=4, seed=2)
    results: list[tuple[Summed, Tensor | None]] = []
    for known in (False, True):
        leaf = student.clone().requires_grad_()
        loss = attention_score_loss(leaf, teacher, mask, zero_at_padding=known)
        loss.total.backward()
        results.append((loss, leaf.grad))
    (plain, plain_gradient), (quick, quick_gradient) = results
    assert torch.equal(plain.total, quick.total)
    assert torch.equal(plain.count, quick.count)
    assert plain_gradient is not None
    assert quick_gradient is not None
    assert torch.equal(plain_gradient, quick_gradient)


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
def test_clipping_equals_that_of_torch(limit: float | None, tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path, gradient_clip_norm=limit)
    trainer.accumulate()
    expected = [nn.Parameter(parameter.detach()) for parameter in trainer.parameters.values()]
    for cloned, parameter in zip(expected, trainer.parameters.values(), strict=True):
        cloned.grad = None if parameter.grad is None else parameter.grad.clone()
    norm = nn.utils.clip_grad_norm_(expected, limit or float("inf"))
    assert trainer.clip() == float(norm)
    for cloned, parameter in zip(expected, trainer.parameters.values(), strict=True):
        assert (cloned.grad is None) == (parameter.grad is None)
        if cloned.grad is not None and parameter.grad is not None:
            assert torch.equal(cloned.grad, parameter.grad)


def a_trainer(folder: Path, latent: dict[str, Any] | None = None, **training: object) -> Trainer:
    recipe = toy_recipe(folder / "in", steps=6)
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    changed: dict[str, Any] = {"training": config.training.model_copy(update=training)}
    if latent is not None:
        changed["objective"] = LatentObjective.model_validate(latent)
    return make_trainer(config.model_copy(update=changed), plain_ports(folder))


def encoder(family: str) -> nn.Module:
    torch.manual_seed(0)
    implementation = {"attn_implementation": CAPTURE} if family in CAPTURED else {}
    return AutoModel.from_config(family_config(family), **implementation).eval()


def a_batch() -> Batch:
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    return Batch(torch.randint(5, 20, (2, 9)) * mask, mask, None, Targets(), 15)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_shortened_teacher_computes_the_same_states(family: str) -> None:
    for needs in (Needs(hidden=frozenset({0, 1})), Needs(frozenset({0}), frozenset({"query", "value"}))):
        if needs.attention and family not in READABLE:
            continue
        model, batch = encoder(family), a_batch()
        with torch.no_grad():
            expected = run_model(model, batch, needs)
            removed = shorten(model, needs, a_batch())
            outputs = run_model(model, batch, needs)
        whole = family_config(family).num_hidden_layers
        assert model.config.num_hidden_layers == whole - removed
        assert outputs.hidden.keys() == expected.hidden.keys()
        assert all(torch.equal(outputs.hidden[at], states) for at, states in expected.hidden.items())
        for layer in needs.attention:
            full_map, shortened_map = (result.recording.attention[layer] for result in (expected, outputs))
            assert torch.equal(full_map.query, shortened_map.query)
            assert torch.equal(full_map.value, shortened_map.value)
        if family == "bert":
            assert removed == whole - 1
            assert len(model.encoder.layer) == 1


@pytest.mark.parametrize("needs", [Needs(), Needs(logits=True, hidden=frozenset({1})), Needs(hidden=frozenset({3}))])
def test_a_teacher_whose_last_block_is_read_is_not_truncated(needs: Needs) -> None:
    model = encoder("bert")
    assert shorten(model, needs, a_batch()) == 0
    assert len(model.encoder.layer) == model.config.num_hidden_layers == 3


def test_a_stage_with_a_shortened_teacher_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = {"layer_map": {"kind": "bottom"}}
    trainers = []
    for shortened in (True, False):
        if not shortened:
            monkeypatch.setattr(teachers, "shorten", lambda *_: 0)
        trainer = a_trainer(tmp_path, latent)
        trainer.train_step()
        trainers.append(trainer)
    quick, plain = trainers
    assert len(quick.teachers.models[0].encoder.layer) == 2
    assert len(plain.teachers.models[0].encoder.layer) == 4
    for name, parameter in plain.parameters.items():
        assert torch.equal(parameter, quick.parameters[name]), name
