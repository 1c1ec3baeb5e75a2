"""Training with the rounding of 8-bit integers: values, gradients, and an exact model in eval mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from schemas.recipe.expand import TaskTeachers, stage_config
from stages.device.int8_simulation import (
    SimulatedEmbedding,
    SimulatedLinear,
    rounded_inputs,
    rounded_weights,
    simulate_int8,
)
from stages.ports.plain import plain_ports
from stages.training.trainer import Trainer
from tests.support.families import family_config
from tests.support.toys import make_trainer, toy_recipe


def test_weights_are_multiples_of_their_outputs_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 40)
    rounded = rounded_weights(weight)
    scale = weight.abs().amax(1, keepdim=True) / (127 if torch.cpu._is_vnni_supported() else 63)
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert float((rounded - weight).abs().max()) <= float(scale.max()) / 2 + 1e-6


@pytest.mark.parametrize("shift", [-3.0, 0.0, 5.0])
def test_inputs_have_at_most_256_values_and_keep_zero(shift: float) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(9, 300) + shift
    inputs[0, 0] = 0
    rounded = rounded_inputs(inputs)
    assert len(rounded.unique()) <= 256
    assert rounded[0, 0] == 0
    width = float(inputs.amax().clamp(min=0) - inputs.amin().clamp(max=0))
    assert float((rounded - inputs).abs().max()) <= width / 255 / 2 + 1e-5


def test_gradients_pass_through_the_rounding() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 7)
    simulate_int8(nn.ModuleList([layer]))
    states = torch.randn(2, 2, 12, requires_grad=True)
    layer.train()(states).sum().backward()
    assert states.grad is not None
    assert layer.weight.grad is not None
    rounded_weight, rounded_states = rounded_weights(layer.weight.detach()), rounded_inputs(states.detach())
    torch.testing.assert_close(states.grad, rounded_weight.sum(0).expand(2, 2, -1))
    torch.testing.assert_close(layer.weight.grad, rounded_states.sum((0, 1)).expand(7, -1))


def test_a_layer_that_answers_once_for_a_text_is_exact() -> None:
    torch.manual_seed(0)
    layer, states = nn.Linear(12, 7), torch.randn(4, 12)
    expected = layer(states)
    simulate_int8(nn.ModuleList([layer]))
    torch.testing.assert_close(layer.train()(states), expected)


def test_the_model_is_exact_in_eval_mode_and_rounds_in_training_mode() -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(family_config("bert")).eval()
    ids = torch.randint(5, 60, (3, 8))
    before = model(ids).logits
    names = list(model.state_dict())
    simulate_int8(model)
    assert list(model.state_dict()) == names
    assert any(isinstance(module, SimulatedLinear) for module in model.modules())
    assert sum(isinstance(module, SimulatedEmbedding) for module in model.modules()) == 3
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-5)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    difference = (model(ids).logits - before).detach().abs().max()
    assert 1e-4 < float(difference) < 0.5


def trainer_of(folder: Path, simulated: str) -> Trainer:
    recipe = toy_recipe(folder / "in", steps=6)
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    training = config.training.model_copy(update={"simulated_precision": simulated, "precision": "fp32"})
    return make_trainer(config.model_copy(update={"training": training}), plain_ports(folder))


def test_a_stage_trains_with_it_and_needs_no_further_state(tmp_path: Path) -> None:
    trainers = {simulated: trainer_of(tmp_path / simulated, simulated) for simulated in ("none", "int8")}
    for trainer in trainers.values():
        trainer.train_step()
    assert trainers["int8"].metrics != trainers["none"].metrics
    states = [trainer.state.saved(teachers_cached=False).tensors.keys() for trainer in trainers.values()]
    assert states[0] == states[1]
