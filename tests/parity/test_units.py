"""Values are standardised for training and predicted in the task's units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from schemas.core.errors import Interrupted
from schemas.core.kinds import Classification, Regression
from schemas.recipe.expand import teacher_configs
from schemas.recipe.objective import SoftLabels
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.batching.payloads import Labels
from stages.data.batching.tokens import Batch
from stages.device.runtime import Runtime
from stages.kinds.registry import kind_of
from stages.kinds.regression import RegressionKind
from stages.kinds.rows import TaskRows
from stages.models.heads import output_layer
from stages.objective.head_losses import MixedLosses
from stages.ports.plain import MemoryStates, MetricList, plain_ports
from stages.run import run_stage
from stages.training.value_scale import Units, fold_units, fresh_in_units, trained_in_units
from tests.support.families import FAMILIES, family_config
from tests.support.kinds import kind_recipe_dict, kind_rows
from tests.support.toys import write_rows

IDS = torch.randint(5, 60, (6, 9), generator=torch.Generator().manual_seed(0))


def headed(family: str = "bert") -> Any:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(family_config(family))
    return kind_of(Regression()).head.on(encoder, ("value",), seed=1).eval()


@torch.no_grad()
def answers(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_predicts_in_units_and_folds_them_into_its_last_layer(family: str, tmp_path: Path) -> None:
    if not kind_of(Regression()).head.exists_for(family_config(family)):
        return
    model = headed(family)
    before, names = answers(model), list(model.state_dict())
    fresh_in_units(model, Units((60.0,), (35.0,)))
    torch.testing.assert_close(answers(model), 60 + 35 * before)
    assert list(model.state_dict()) == names, "the saved state has no additional tensors"
    predictions = answers(model)
    fold_units(model)
    assert not any(layer._forward_hooks for layer in model.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(answers(model), predictions, rtol=1e-5, atol=1e-4)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(answers(again), predictions, rtol=1e-5, atol=1e-4)
    trained_in_units(again, Units((10.0,), (3.0,)))
    torch.testing.assert_close(answers(again), predictions, rtol=1e-5, atol=1e-4)


def test_a_layer_without_a_bias_is_only_scaled() -> None:
    model = headed()
    layer = output_layer(model, 1)
    assert layer is not None
    layer.bias = None
    before = answers(model)
    fresh_in_units(model, Units((3.0,), (4.0,)))
    torch.testing.assert_close(answers(model), 5 * before)
    fold_units(model)
    torch.testing.assert_close(answers(model), 5 * before)


def test_a_frozen_teacher_in_bf16_distinguishes_its_predictions() -> None:
    units = Units((2000.0,), (5.0,))
    teacher = headed()
    fresh_in_units(teacher, units)
    fold_units(teacher)
    exact = answers(teacher)
    runtime = Runtime("bf16")

    def furthest(model: Any) -> float:
        frozen = runtime.frozen(model)
        with runtime.autocast():
            return float((answers(frozen) - exact).abs().max())

    assert furthest(teacher) > 0.5, "a bias of 2000 has steps of 8 in bf16"
    trained_in_units(teacher, units)
    assert furthest(teacher) < 0.25


def test_units_are_those_of_the_training_rows() -> None:
    def rows(problem: Any, labels: list[Any], names: tuple[str, ...]) -> TaskRows:
        train = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
        return TaskRows(train, train, names, "0" * 64, problem)

    classes = rows(Classification(), [0, 1, 1], ("bad", "good"))
    values = rows(Regression(), [-3.0, 120.0, 60.0], ("value",))
    assert Units.of([classes]) is None
    units = Units.of([classes, values])
    assert units is not None
    assert units.means == (0, 0, 59)
    assert units.scales == pytest.approx((1, 1, np.std([-3, 120, 60])))
    constant = Units.of([rows(Regression(), [7.0, 7.0], ("value",))])
    assert constant == Units((7.0,), (1.0,))


def test_both_losses_measure_errors_in_standard_deviations() -> None:
    student, teacher = torch.tensor([[3.0], [8.0]]), torch.tensor([[1.0], [4.0]])
    batch = Batch(IDS[:2], torch.ones_like(IDS[:2]), None, Labels(torch.tensor([1.0, 4.0])), 18)
    for loss in (
        RegressionKind(Regression(), 4.0).soft(SoftLabels(), student, teacher, batch, None),
        RegressionKind(Regression(), 4.0).hard(student, batch),
    ):
        assert float(loss.total) == (2**2 + 4**2) / 4**2
    mixed = Batch(IDS[:2], torch.ones_like(IDS[:2]), None, Labels(torch.tensor([[0.0, 1.0], [1.0, 4.0]])), 18)
    both = torch.cat([student, student], dim=1)
    loss = MixedLosses(((0, 1), (1, 2)), (1.0, 4.0)).hard(both, mixed)
    assert float(loss.total) == 2**2 / 1**2 + 4**2 / 4**2


def config_of(folder: Path, *, factor: float, offset: float) -> StageConfig:
    """The fine-tuning of a teacher on values in other units."""
    content = kind_recipe_dict(folder, "regression")
    content["teacher"]["task_model"]["training"] |= {"duration": "6 steps", "precision": "fp32"}
    for split, seed in (("train", 1), ("validation", 2)):
        rows = kind_rows("regression", 60, seed)
        scaled = [row | {"label": factor * row["label"] + offset} for row in rows]
        write_rows(Path(content["task"][split]), scaled)
    return teacher_configs(Recipe.model_validate(content))[0]


def test_training_does_not_depend_on_the_units_of_values(tmp_path: Path) -> None:
    models, losses = [], []
    for factor, offset in ((1.0, 0.0), (35.0, 60.0)):
        folder = tmp_path / str(factor)
        sink = MetricList()
        ports = plain_ports(folder, sink=sink)
        result = run_stage(config_of(folder / "in", factor=factor, offset=offset), None, ports)
        losses.append(list(sink.values("train/hard_label_loss").values()))
        path = Path(result.checkpoint.path) / "model"
        models.append(AutoModelForSequenceClassification.from_pretrained(path).eval())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] == pytest.approx(1, abs=0.6), "about the labels' own variance, which is 1"
    plain, scaled = (answers(model) for model in models)
    torch.testing.assert_close(scaled, 35 * plain + 60, rtol=1e-4, atol=1e-2)


def test_an_interrupted_regression_stage_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = config_of(tmp_path / "in", factor=35.0, offset=60.0)
    whole = run_stage(config, None, plain_ports(tmp_path / "whole"))
    states = MemoryStates()
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 3

    parts = plain_ports(tmp_path / "parts", states=states, stop_requested=stop)
    with pytest.raises(Interrupted, match="step 3 of 6"):
        run_stage(config, None, parts)
    again = run_stage(config, None, parts)
    files = [Path(result.checkpoint.path) / "model" / "model.safetensors" for result in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert whole.metrics["eval/pearson"] == again.metrics["eval/pearson"]
