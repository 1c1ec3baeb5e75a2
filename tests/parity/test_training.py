"""The training loop: accumulation, interruption, a frozen teacher, and the start of a student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from schemas.core.errors import CheckpointError, Interrupted, NonFiniteLossError
from schemas.recipe.expand import TaskTeachers, stage_config, teacher_configs
from schemas.recipe.objective import MaskedLanguageObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import StudentConfig, StudentShape, TeacherLayersStart
from schemas.results.manifest import CheckpointRef
from stages.build import initial_student
from stages.models.encoders import load_config, load_encoder, load_tokenizer, locate
from stages.models.student import dropout, fresh_student
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model
from stages.ports.plain import MemoryStates, MetricList, plain_ports
from stages.ports.protocols import Ports
from stages.run import run_stage
from stages.stage_data import load_data
from stages.training.divisors import StepSize
from stages.training.fit import fit
from stages.training.trainer import Trainer
from tests.support.toys import make_trainer, toy_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return toy_recipe(tmp_path / "in", steps=6)


def trainer_of(recipe: Recipe, ports: Ports, *, stage: int = 0, **training: object) -> Trainer:
    """A trainer before its first step, with fixed seeds."""
    config = stage_config(recipe, recipe.stages[stage], TaskTeachers())
    return make_trainer(config.model_copy(update={"training": config.training.model_copy(update=training)}), ports)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None}


def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(recipe: Recipe, tmp_path: Path) -> None:
    results: list[dict[str, Tensor]] = []
    means: list[dict[str, float]] = []
    for size in (8, 2):
        trainer = trainer_of(recipe, plain_ports(tmp_path))
        rows = np.arange(8)  # in the data's own order: ragged, where a step's rows are alike
        assert len(set(trainer.tokens.lengths[rows])) > 2, "the rows should be ragged"
        batches = [trainer.tokens.batch(rows[at : at + size]) for at in range(0, 8, size)]
        counts = [trainer.objective.counts(batch) for batch in batches]
        whole = {key: sum(count[key] for count in counts) for key in counts[0]}
        for batch, count in zip(batches, counts, strict=True):
            target = trainer.teachers.target(batch)
            totals = trainer.backward(batch, target, whole, trainer.objective.weights())
            trainer.meter.add(totals, count)
        results.append(gradients(trainer))
        means.append(trainer.meter.means())
    assert len(results[0]) > 10
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert means[1] == pytest.approx(means[0], rel=1e-5)


def test_the_microbatch_budget_does_not_change_the_gradient(recipe: Recipe, tmp_path: Path) -> None:
    results = []
    for budget in (8192, 40):
        trainer = trainer_of(recipe, plain_ports(tmp_path, microbatch_tokens=budget))
        assert any(module.p for module in trainer.student.modules() if isinstance(module, nn.Dropout))
        assert (len(trainer.batches.step(0)) > 1) == (budget == 40)
        trainer.accumulate()
        results.append(gradients(trainer))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_padding_to_a_longer_row_does_not_change_the_gradient(recipe: Recipe, tmp_path: Path) -> None:
    trainer = trainer_of(recipe, plain_ports(tmp_path))
    rows = trainer.batches.step(0)[0]
    short = trainer.tokens.batch(rows)
    extra = torch.zeros(len(rows), 7, dtype=torch.long)
    long = replace(
        short,
        input_ids=torch.cat([short.input_ids, extra], 1),
        attention_mask=torch.cat([short.attention_mask, extra], 1),
        token_type_ids=None if short.token_type_ids is None else torch.cat([short.token_type_ids, extra], 1),
    )
    results = []
    for batch in (short, long):
        trainer.optimizer.zero_grad()
        trainer.backward(
            batch, trainer.teachers.target(batch), trainer.objective.counts(batch), trainer.objective.weights()
        )
        results.append({name: p.grad.clone() for name, p in trainer.parameters.items() if p.grad is not None})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_counts_known_before_the_forward_pass_equal_those_of_the_losses(recipe: Recipe, tmp_path: Path) -> None:
    trainer = trainer_of(recipe, plain_ports(tmp_path))
    batch = trainer.tokens.batch(trainer.batches.step(0)[0])
    target = trainer.teachers.target(batch)
    output = run_model(trainer.student, batch, trainer.objective.student_needs)
    losses = trainer.objective.compute(output, target, batch)
    assert {key: int(loss.count) for key, loss in losses.items()} == trainer.objective.counts(batch)


def test_a_teacher_is_unchanged_bit_for_bit_after_a_stage(recipe: Recipe, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(recipe, plain_ports(tmp_path / precision), precision=precision)
        teacher = load_encoder(locate(recipe.pretrained))
        before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
        fit(
            trainer.student,
            [teacher],
            trainer.tokens,
            trainer.objective,
            trainer.training,
            plain_ports(tmp_path / f"{precision}-fit"),
            stage="general",
        )
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
        assert not any(parameter.grad is not None for parameter in teacher.parameters())


def fit_again(trainer: Trainer, ports: Ports) -> None:
    """Run the loop with the parts of a trainer."""
    models = trainer.teachers.models
    fit(trainer.student, models, trainer.tokens, trainer.objective, trainer.training, ports, stage="general")


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_half_the_steps_and_a_resume_give_the_weights_of_all_steps(
    recipe: Recipe, tmp_path: Path, stop_at: int
) -> None:
    whole = trainer_of(recipe, plain_ports(tmp_path / "a"))
    sink = MetricList()
    fit_again(whole, plain_ports(tmp_path / "a", sink=sink, log_every=2))
    states, resumed_sink = MemoryStates(), MetricList()
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == stop_at

    ports = plain_ports(tmp_path / "a", states=states, sink=resumed_sink, log_every=2, stop_requested=stop)
    first = trainer_of(recipe, ports)
    with pytest.raises(Interrupted, match=f"step {stop_at} of 6"):
        fit_again(first, ports)
    second = trainer_of(recipe, ports)
    fit_again(second, ports)
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name
    timed = {"train/tokens_per_second"}
    for step, metrics in sink.points:
        again = dict(resumed_sink.points)[step]
        assert {k: v for k, v in metrics.items() if k not in timed} == {
            k: v for k, v in again.items() if k not in timed
        }


def test_a_state_of_another_model_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    trainer = trainer_of(recipe, plain_ports(tmp_path))
    state = trainer.state.saved(teachers_cached=False)
    wrong = replace(state, tensors={name: torch.zeros(3) for name in state.tensors})
    with pytest.raises(CheckpointError, match="does not fit this stage's model"):
        trainer.state.restore(wrong)


def test_a_non_finite_loss_stops_before_the_optimizer_step(recipe: Recipe, tmp_path: Path) -> None:
    trainer = trainer_of(recipe, plain_ports(tmp_path))
    trainer.train_step()
    before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
    with torch.no_grad():
        next(trainer.teachers.models[0].parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"step 1: .*hidden_loss_layer_0 is nan.*not stepped"):
        trainer.train_step()
    assert trainer.state.step == 1
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.parameters.items())


@pytest.mark.parametrize("limit", [1.0, None])
def test_a_non_finite_gradient_is_reported_with_its_layer(limit: float | None, recipe: Recipe, tmp_path: Path) -> None:
    trainer = trainer_of(recipe, plain_ports(tmp_path))
    trainer.training = trainer.training.model_copy(update={"gradient_clip_norm": limit})
    (name,) = [name for name in trainer.parameters if name.endswith("layer.1.output.dense.weight")]
    trainer.parameters[name].register_hook(lambda gradient: gradient * float("inf"))
    before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
    with pytest.raises(NonFiniteLossError, match=rf"step 0: no loss but the gradient of {name};"):
        trainer.train_step()
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.parameters.items())


def test_a_student_copied_from_every_teacher_layer_equals_the_teacher(recipe: Recipe) -> None:
    folder = locate(recipe.pretrained)
    teacher = load_encoder(folder)
    shape = StudentShape(num_layers=4, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    student = fresh_student(StudentConfig(shape=shape, start=TeacherLayersStart()), folder)
    ids = torch.randint(5, 60, (3, 9))
    assert torch.equal(student(input_ids=ids).last_hidden_state, teacher(input_ids=ids).last_hidden_state)


def test_copied_layers_follow_the_layer_map(recipe: Recipe) -> None:
    folder = locate(recipe.pretrained)
    teacher = load_encoder(folder).state_dict()
    shape = StudentShape(num_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    start = TeacherLayersStart.model_validate({"layer_map": {"kind": "explicit", "layers": [2, 0]}})
    student = fresh_student(StudentConfig(shape=shape, start=start), folder).state_dict()
    for student_layer, teacher_layer in ((0, 2), (1, 0)):
        key = "encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(student[key.format(student_layer)], teacher[key.format(teacher_layer)])


def test_a_random_start_depends_only_on_its_seed(recipe: Recipe) -> None:
    folder = locate(recipe.pretrained)

    def first(seed: int) -> Tensor:
        config = recipe.student.model_copy(update={"start": recipe.student.start.model_copy(update={"seed": seed})})
        torch.manual_seed(99)
        return next(fresh_student(config, folder).parameters()).detach()

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_projections_are_passed_to_the_next_stage(recipe: Recipe, tmp_path: Path) -> None:
    general = stage_config(recipe, recipe.stages[0], TaskTeachers())
    first = run_stage(general, None, plain_ports(tmp_path / "one"))
    tokenizer = load_tokenizer(folder := locate(recipe.pretrained), load_config(folder))
    cache = tmp_path / "one" / "cache"
    text = load_data(general.data, tokenizer, cache).train
    carried = initial_student(general, first.checkpoint, text, (), None, tokenizer, cache=cache).projections
    student = load_encoder(Path(first.checkpoint.path) / "model")
    objective = ObjectiveTerms(
        general.objective, student=student, teachers=[load_encoder(folder)], seed=1, projections=carried
    )
    assert objective.carried_over
    assert {name: tensor.shape for name, tensor in objective.projection_tensors().items()} == {
        name: tensor.shape for name, tensor in carried.items()
    }
    assert all(torch.equal(tensor, carried[name]) for name, tensor in objective.projection_tensors().items())


def test_a_checkpoint_of_another_shape_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    from schemas.core.errors import ConfigError

    general = stage_config(recipe, recipe.stages[0], TaskTeachers())
    parent: CheckpointRef = run_stage(general, None, plain_ports(tmp_path / "one")).checkpoint
    shape = StudentShape(num_layers=3, hidden_size=8, num_attention_heads=2, intermediate_size=16)
    reshaped = general.model_copy(update={"student": StudentConfig(shape=shape)})
    with pytest.raises(ConfigError, match=r"student\.shape\.num_layers: 3, but .* has 2"):
        run_stage(reshaped, parent, plain_ports(tmp_path / "two"))


def with_labels(recipe: Recipe, **training: object) -> StageConfig:
    """The fine-tuning of a teacher whose head has dropout."""
    (config,) = teacher_configs(recipe)
    changed = {"dropout": 0.2} | training
    return config.model_copy(update={"training": config.training.model_copy(update=changed)})


def with_words(recipe: Recipe) -> StageConfig:
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    objective = MaskedLanguageObjective(soft_label=None)
    return config.model_copy(update={"objective": objective})


@pytest.mark.parametrize("kind", ["labels", "perturbed", "words"])
def test_dropout_does_not_depend_on_microbatches(kind: str, recipe: Recipe, tmp_path: Path) -> None:
    config = {
        "labels": lambda: with_labels(recipe),
        "perturbed": lambda: with_labels(recipe, gradient_perturbation=1.0),
        "words": lambda: with_words(recipe),
    }[kind]()
    whole = make_trainer(config, plain_ports(tmp_path))
    with dropout(whole.student, config.training.dropout):
        whole.accumulate()
    wanted = gradients(whole)
    for budget in (20, 40):
        trainer = make_trainer(config, plain_ports(tmp_path, microbatch_tokens=budget))
        batches = [
            trainer.objective.prepare(trainer.tokens.batch(rows), rows, step=0) for rows in trainer.batches.step(0)
        ]
        assert len(batches) > 1
        counts = [trainer.objective.counts(batch) for batch in batches]
        sums = {key: sum(count[key] for count in counts) for key in counts[0]}
        with dropout(trainer.student, config.training.dropout):
            for batch in batches:
                weights = trainer.objective.weights()
                divisors = trainer.divisors.of_step(trainer.objective.terms, 0, StepSize.of(batches), sums)
                trainer.backward(batch, trainer.teachers.target(batch), divisors, weights)
        for name, gradient in gradients(trainer).items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)
    plain = make_trainer(config, plain_ports(tmp_path))
    plain.student.eval()
    plain.accumulate()
    name = next(name for name in wanted if name.endswith("query.weight"))
    assert not torch.allclose(gradients(plain)[name], wanted[name], rtol=0.05), "nothing was drawn"
