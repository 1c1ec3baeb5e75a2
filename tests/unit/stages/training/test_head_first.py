"""A head that learns alone before the body joins: what moves, by how much, and no effect of cuts and interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from schemas.core.errors import Interrupted
from schemas.core.training import Training
from schemas.recipe.expand import TaskTeachers, finished_teacher, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import StageResult
from stages.models.student import dropout
from stages.objective.terms import run_model
from stages.ports.plain import MemoryStates, MetricList, SilentProgress, plain_ports
from stages.preflight.checks import preflight
from stages.preflight.cost import cost_of
from stages.run import run_stage
from stages.training.trainer import Trainer
from tests.support.kinds import ROWS, kind_recipe_dict
from tests.support.manifests import DIGEST
from tests.support.toys import make_trainer, toy_recipe, toy_teacher

STEPS, ALONE, RATE = 7, 3, 0.02
WITH_A_HEAD = sorted(set(ROWS) - {"embedding"})


def head_first(config: StageConfig, **training: Any) -> StageConfig:
    """A stage of 7 steps, in the first 3 of which the head learns alone."""
    settings = config.training.model_dump(mode="json") | {
        "duration": f"{STEPS} steps",
        "batch": "8 sequences",
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"warmup_ratio": 0.5},
        "head_first": {"share": 0.5, "learning_rate": RATE},
    }
    return config.model_copy(update={"training": Training.model_validate(settings | training)})


def fine_tuning(folder: Path, kind: str, **training: Any) -> StageConfig:
    recipe = Recipe.model_validate(kind_recipe_dict(folder / "in", kind))
    return head_first(teacher_configs(recipe)[0], **training)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}


def is_head(name: str) -> bool:
    return ".encoder." not in name and ".embeddings." not in name


@pytest.mark.parametrize("kind", WITH_A_HEAD)
def test_the_body_is_bit_equal_until_it_joins_and_learns_from_then_on(kind: str, tmp_path: Path) -> None:
    trainer = make_trainer(fine_tuning(tmp_path, kind), plain_ports(tmp_path))
    start = weights(trainer)
    head = {name for name in start if is_head(name)}
    assert head
    assert len(start) > len(head) + 60
    for step in range(1, ALONE + 1):
        trainer.train_step()
        # One bias for all choices is no choice: it has no gradient but for rounding.
        still = {"student.classifier.bias"} if kind == "multiple_choice" else set()
        assert head - still <= moved(start, weights(trainer)) <= head, step
    assert set(map(id, trainer.optimizer.state)) == {id(trainer.parameters[name]) for name in head}
    assert not any(trainer.parameters[name].requires_grad for name in set(start) - head)
    alone = weights(trainer)
    trainer.train_step()
    # A key's bias shifts all scores of a query alike, and an untouched word has no gradient: decay moves it.
    assert {name for name in set(start) - moved(alone, weights(trainer)) if "key.bias" not in name} == set()


def test_the_head_takes_the_steps_of_adamw_on_frozen_features(tmp_path: Path) -> None:
    config = fine_tuning(tmp_path, "pair", dropout=0, gradient_clip_norm=None)
    trainer = make_trainer(config, plain_ports(tmp_path))
    other = make_trainer(config.model_copy(update={"training": _without(config)}), plain_ports(tmp_path))
    numbers = {name: tensor.double() for name, tensor in weights(other).items() if is_head(name)}
    first, second = ({name: torch.zeros_like(number) for name, number in numbers.items()} for _ in range(2))
    for step in range(ALONE):
        for name, number in numbers.items():
            other.parameters[name].data.copy_(number)
        other.optimizer.zero_grad()
        other.state.step = step
        other.accumulate()
        rate = RATE * (ALONE - step) / ALONE
        for name, number in numbers.items():
            gradient = other.parameters[name].grad.double()  # type: ignore[union-attr]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            ratio = first[name] / (1 - 0.9 ** (step + 1))
            ratio /= (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            decay = 0.01 if number.ndim >= 2 else 0.0
            numbers[name] = number * (1 - rate * decay) - rate * ratio
        trainer.train_step()
        for name, number in numbers.items():
            torch.testing.assert_close(trainer.parameters[name].detach().double(), number, rtol=1e-4, atol=1e-5)


def _without(config: StageConfig) -> Training:
    return config.training.model_copy(update={"head_first": None})


def test_the_schedule_begins_where_the_body_joins(tmp_path: Path) -> None:
    sink = MetricList()
    run_stage(fine_tuning(tmp_path, "pair"), None, plain_ports(tmp_path, sink=sink, log_every=1))
    rates = sink.values("train/learning_rate")
    expected = [RATE, RATE * 2 / 3, RATE / 3, 0.5e-3, 1e-3, 1e-3, 0.5e-3]
    assert list(rates.values()) == pytest.approx(expected)


def test_the_user_is_told_and_a_share_of_less_than_a_step_is_none(tmp_path: Path) -> None:
    progress = SilentProgress()
    run_stage(fine_tuning(tmp_path, "pair"), None, plain_ports(tmp_path, progress=progress))
    assert "teacher: the head learns alone in the first 3 of 7 steps" in progress.notes
    trainer = make_trainer(fine_tuning(tmp_path / "b", "pair", head_first={"share": 0.1}), plain_ports(tmp_path))
    assert (trainer.head_steps, trainer.trains_head_alone) == (0, False)


@pytest.mark.parametrize("step", [0, ALONE - 1])
def test_a_step_of_the_head_does_not_depend_on_its_cut(step: int, tmp_path: Path) -> None:
    config = fine_tuning(tmp_path, "pair", dropout=0.2)
    found = []
    for budget in (8192, 40):
        trainer = make_trainer(config, plain_ports(tmp_path, microbatch_tokens=budget))
        trainer.state.step = step
        with dropout(trainer.student, config.training.dropout):
            trainer.accumulate()
        assert (len(trainer.batches.step(step)) > 1) == (budget == 40)
        found.append({name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None})
    assert set(found[0]) == set(found[1]) == {name for name in trainer.parameters if is_head(name)}
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def stopping(at: int) -> Any:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == at

    return stop


def run(config: StageConfig, folder: Path, ports: dict[str, Any]) -> tuple[StageResult, dict[str, Tensor]]:
    from safetensors.torch import load_file

    result = run_stage(config, None, plain_ports(folder, **ports))
    return result, load_file(Path(result.checkpoint.path) / "model" / "model.safetensors")


@pytest.mark.parametrize("selection", [None, {"every": "2 steps", "patience": None, "rows": "held_out"}])
def test_an_interruption_at_any_step_changes_no_bit(selection: dict[str, Any] | None, tmp_path: Path) -> None:
    config = fine_tuning(tmp_path, "pair", dropout=0.1, selection=selection)
    whole, wanted = run(config, tmp_path / "whole", {})
    for stop_at in (1, ALONE - 1, ALONE, ALONE + 1, STEPS - 1):
        states = MemoryStates()
        folder = tmp_path / str(stop_at)
        with pytest.raises(Interrupted, match=f"step {stop_at} of {STEPS}"):
            run(config, folder, {"states": states, "stop_requested": stopping(stop_at)})
        kept = {name for name in states.saved[-1].tensors if name.startswith("optimizer.")}
        assert any(".encoder." in name for name in kept) == (stop_at > ALONE)
        resumed, found = run(config, folder, {"states": states})
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
        timed = {"train/tokens_per_second"}
        assert {k: v for k, v in resumed.metrics.items() if k not in timed} == {
            k: v for k, v in whole.metrics.items() if k not in timed
        }


def test_patience_begins_with_the_body(tmp_path: Path) -> None:
    selection = {"every": "1 steps", "patience": 1, "rows": "validation"}
    still = {"share": 0.5, "learning_rate": 1e-30}
    config = fine_tuning(tmp_path, "pair", selection=selection, head_first=still, optimizer={"learning_rate": 1e-30})
    result, _ = run(config, tmp_path, {})
    assert result.steps == ALONE + 1
    assert result.metrics["select/best_step"] == 1


def test_a_students_latent_terms_train_their_projections_meanwhile(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "in")
    folder = toy_teacher(tmp_path / "fine-tuned", labels=("bad", "good"))
    teachers = TaskTeachers(fine_tuned=(finished_teacher(str(folder), DIGEST),))
    config = head_first(stage_config(recipe, recipe.stages[3], teachers))
    sink = MetricList()
    trainer = make_trainer(config, plain_ports(tmp_path, sink=sink, gradient_share_every=1))
    start = weights(trainer)
    for _ in range(ALONE):
        trainer.train_step()
    changed = moved(start, weights(trainer))
    assert changed == {name for name in start if is_head(name)}
    assert any(name.startswith("objective.") for name in changed)
    trainer.train_step()
    alone, together = sink.points[0][1], sink.points[-1][1]
    assert sum(alone.values()) == pytest.approx(1)
    for name, share in alone.items():
        assert (share == 0) == ("attention" in name), "attention is the body's alone"
        assert together[name] > 0


def test_the_balance_of_terms_is_measured_when_the_body_joins(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path / "in")
    folder = toy_teacher(tmp_path / "fine-tuned", labels=("bad", "good"))
    teachers = TaskTeachers(fine_tuned=(finished_teacher(str(folder), DIGEST),))
    config = head_first(stage_config(recipe, recipe.stages[3], teachers), frozen="word_embeddings")
    objective = config.objective.model_dump(mode="json")
    objective["latent"]["normalize"] = "gradient_share"
    config = StageConfig.model_validate(config.model_dump(mode="json") | {"objective": objective})
    trainer = make_trainer(config, plain_ports(tmp_path))
    balance = trainer.objective.balance
    assert balance is not None
    for _ in range(ALONE):
        trainer.train_step()
    assert set(balance.factors().values()) == {1.0}
    table = trainer.student.get_input_embeddings()
    before = table.weight.detach().clone()  # type: ignore[operator, union-attr]
    trainer.train_step()
    assert len(set(balance.factors().values())) == len(balance.weights)
    assert torch.equal(table.weight, before)  # type: ignore[union-attr]


def test_several_tasks_share_a_head_that_learns_alone(tmp_path: Path) -> None:
    content = kind_recipe_dict(tmp_path / "in", "pair")
    training = content["teacher"]["task_model"]["training"]
    content["teacher"]["multi_task"] = {
        "tasks": {"one": content["task"], "two": kind_recipe_dict(tmp_path / "two", "regression")["task"]},
        "training": training,
    }
    content["stages"][1]["teacher"] = "multi_task"
    (config,) = [each for each in teacher_configs(Recipe.model_validate(content)) if each.name == "multi_task_teacher"]
    trainer = make_trainer(head_first(config), plain_ports(tmp_path))
    start = weights(trainer)
    trainer.train_step()
    assert moved(start, weights(trainer)) == {name for name in start if is_head(name)}


def test_a_perturbed_embedding_is_part_of_the_frozen_body() -> None:
    settings = {"duration": "3 epochs", "head_first": {}, "gradient_perturbation": 1.0}
    with pytest.raises(ValidationError, match="head_first freezes the body, and gradient_perturbation moves"):
        Training.model_validate(settings)
    with pytest.raises(ValidationError, match="less than 1"):
        Training.model_validate({"duration": "3 epochs", "head_first": {"share": 1}})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_of_the_body_is_kept_for_a_backward_pass(precision: str, tmp_path: Path) -> None:
    trainer = make_trainer(fine_tuning(tmp_path, "pair", precision=precision), plain_ports(tmp_path))
    trainer.train_step()
    rows = trainer.batches.step(0)[0]
    with trainer.runtime.autocast():
        needs = trainer.objective.student_needs
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t):
            output = run_model(trainer.student, trainer.tokens.batch(rows), needs)
    assert output.logits is not None
    assert output.logits.requires_grad
    assert len(saved) < 12, "only the head's inputs and weights"


def test_a_step_of_the_head_costs_a_third(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(kind_recipe_dict(tmp_path / "in", "pair"))
    facts = preflight(recipe, tmp_path / "cache")
    config = head_first(teacher_configs(recipe)[0], batch="160 sequences")
    alone = cost_of(config, facts, tmp_path / "cache", 1e9)
    plain = cost_of(config.model_copy(update={"training": _without(config)}), facts, tmp_path / "cache", 1e9)
    assert (alone.steps, alone.tokens) == (plain.steps, plain.tokens)
    assert alone.flops / plain.flops == pytest.approx((STEPS - ALONE + ALONE / 3) / STEPS)
