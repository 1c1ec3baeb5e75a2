"""A teacher divided among two processes computes the same bits as a whole one, in half the memory, without a hang."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AlbertConfig, AlbertModel

from schemas.core.errors import ConfigError, OutOfMemoryError
from schemas.core.training import BatchSize
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from schemas.recipe.parts import Launch
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.device.sharding import parts_of
from stages.objective.terms import Needs
from stages.ports.plain import plain_ports
from stages.ports.protocols import Ports
from stages.ports.world import OneProcess, World
from stages.preflight.checks import preflight
from stages.preflight.cost import cost_of
from stages.run import PreparedStage
from stages.training.trainer import Trainer
from tests.support.ranks import in_processes
from tests.support.toys import LATENTS, toy_recipe

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    return toy_recipe(folder / "in", steps=STEPS)


def stage_of(recipe: Recipe, name: str, folder: Path, *, rows: int = 8) -> PreparedStage:
    """The general stage with another latent objective and rows in a step."""
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    changes = {
        "objective": LatentObjective.model_validate(LATENTS[name]),
        "training": config.training.model_copy(update={"batch": BatchSize(amount=rows, unit="sequences")}),
    }
    return PreparedStage.of(config.model_copy(update=changes), None, plain_ports(folder), None)


def trainer_of(stage: PreparedStage, ports: Ports) -> Trainer:
    return Trainer(
        stage.initial.model, stage.teachers, stage.data.train, stage.objective, stage.config.training, ports, "general"
    )


def held(trainer: Trainer) -> int:
    """Numbers that this process holds of its teacher."""
    parameters = [getattr(p, "_local_tensor", p) for p in trainer.teachers.models[0].parameters()]
    return sum(parameter.numel() for parameter in parameters)


def states(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that the teacher computes for rows of another length in each process."""
    lengths = trainer.tokens.lengths
    rows = [lengths.argmin(), lengths.argmax()][trainer.world.rank]
    batch = trainer.tokens.batch(torch.tensor([rows]).numpy())
    needs = Needs.after_blocks(range(4)) | Needs(frozenset(range(4)), frozenset({"query", "key", "value"}))
    output = trainer.teachers._run(trainer.teachers.models[0], batch, needs)
    found = {f"hidden {number}": tensor for number, tensor in output.hidden.items()}
    for layer, attention in output.recording.attention.items():
        found |= {f"{layer} {name}": getattr(attention, name) for name in ("query", "key", "value")}
    assert len(found) >= 4 + 3 * 4
    return found


def test_states_are_the_same_bits_and_parameters_half_as_many(recipe: Recipe, folder: Path) -> None:
    stage = stage_of(recipe, "tinybert", folder)

    def work(world: World, *, shards: bool) -> dict[str, Tensor]:
        with world.joined():
            trainer = trainer_of(stage, plain_ports(folder, world=world, shards_teacher=shards))
            before = held(trainer)
            found = states(trainer)
            return found | {"held": torch.tensor([before, held(trainer)])}

    whole, divided = (
        in_processes(2, lambda world, s=shards: work(world, shards=s), folder / f"states-{shards}")  # type: ignore[misc]
        for shards in (False, True)
    )
    for rank in (0, 1):
        of_whole, of_part = whole[rank].pop("held").tolist(), divided[rank].pop("held").tolist()
        assert of_whole[0] == of_whole[1]
        # Whole are positions, types, their norm, and the pooler.
        undivided = 64 * 16 + 2 * 16 + 2 * 16 + 16 * 16 + 16
        assert of_part[0] == of_part[1], "nothing stays whole after a pass"
        assert of_part[0] - undivided == pytest.approx((of_whole[0] - undivided) / 2, rel=0.02)
        assert divided[rank].keys() == whole[rank].keys()
        for name, tensor in divided[rank].items():
            assert torch.equal(tensor, whole[rank][name]), name


@pytest.mark.parametrize(
    ("name", "rows", "budget"),
    [
        ("tinybert", 7, 12),
        ("tinybert", 1, 12),
        ("normalized", 7, 12),
        ("balanced", 7, 12),
        ("lrc", 7, 12),
        ("mgskd", 8, 8192),
        ("mgskd", 2, 8192),
    ],
)
def test_gradients_are_the_same_with_another_number_of_passes(
    name: str, rows: int, budget: int, recipe: Recipe, folder: Path
) -> None:
    stage = stage_of(recipe, name, folder, rows=rows)

    def gradient(world: World, *, shards: bool) -> dict[str, Tensor]:
        ports = plain_ports(folder, world=world, shards_teacher=shards, gradient_share_every=1)
        with world.joined():
            trainer = trainer_of(stage, replace(ports, microbatch_tokens=budget))
            passes = []
            for _ in range(STEPS):
                passes.append(len(trainer.microbatches()))
                trainer.train_step()
            trainer.gradient()
            result = {key: p.grad for key, p in trainer.parameters.items() if p.grad is not None}
            return result | {"passes": torch.tensor(passes)}

    whole, divided = (
        in_processes(2, lambda world, s=shards: gradient(world, shards=s), folder / f"{name}-{rows}-{shards}")  # type: ignore[misc]
        for shards in (False, True)
    )
    if not stage.objective.couples_rows:
        assert (divided[0]["passes"] != divided[1]["passes"]).any(), "no step has more passes in one process"
    for rank in (0, 1):
        assert divided[rank].keys() == whole[rank].keys()
        for key, tensor in divided[rank].items():
            assert torch.equal(tensor, whole[rank][key]), key


def test_a_stage_ends_with_the_same_weights_and_keeps_no_answers(recipe: Recipe, folder: Path) -> None:
    stage = stage_of(recipe, "tinybert", folder, rows=64)
    ports = plain_ports(folder / "whole", teacher_cache_bytes=10**9, microbatch_tokens=100)

    def trained(world: World, *, shards: bool) -> dict[str, Tensor]:
        own = replace(ports, world=world, shards_teacher=shards, teacher_cache_bytes=10**9 if shards else 0)
        stage.train(own)
        assert not list(own.cache.glob("teacher-*"))
        return dict(stage.initial.model.state_dict())

    whole, divided = (
        in_processes(2, lambda world, s=shards: trained(world, shards=s), folder / f"stage-{shards}")  # type: ignore[misc]
        for shards in (False, True)
    )
    for name, tensor in divided[0].items():
        assert torch.equal(tensor, whole[0][name]), name


def test_a_stop_in_one_process_ends_after_the_step(recipe: Recipe, folder: Path) -> None:
    stage = stage_of(recipe, "tinybert", folder)

    def work(world: World) -> dict[str, Tensor]:
        ports = plain_ports(folder, world=world, shards_teacher=True, microbatch_tokens=40)
        with world.joined():
            trainer = trainer_of(stage, replace(ports, stop_requested=lambda: world.rank == 1))
            trainer.train_step()
            return {"step": torch.tensor(trainer.state.step)}

    assert [int(result["step"]) for result in in_processes(2, work, folder / "stop")] == [1, 1]


def test_memory_that_runs_out_ends_the_stage(recipe: Recipe, folder: Path) -> None:
    stage = stage_of(recipe, "tinybert", folder)

    def work(world: World) -> dict[str, Tensor]:
        ports = plain_ports(folder, world=world, shards_teacher=True)
        with world.joined():
            trainer = trainer_of(stage, ports)

            def fail(*_: object) -> None:
                raise torch.OutOfMemoryError("CUDA out of memory")

            trainer.backward = fail  # type: ignore[method-assign, assignment]
            with pytest.raises(OutOfMemoryError, match=r"as the teacher is sharded, execution\.microbatch_tokens"):
                trainer.train_step()
        return {"done": torch.ones(1)}

    in_processes(2, work, folder / "memory")


def launched(recipe: Recipe, **launch: object) -> Recipe:
    execution = recipe.execution.model_copy(update={"launch": Launch.model_validate({"teacher": "sharded"} | launch)})
    return recipe.model_copy(update={"execution": execution})


def test_one_process_and_teachers_in_8_bits_are_refused(recipe: Recipe, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"execution\.launch\.teacher: sharded, but one process trains"):
        preflight(launched(recipe), folder / "cache")
    first, *others = recipe.stages
    training = first.training.model_copy(update={"teacher_precision": "int8"})
    stages = (first.model_copy(update={"training": training}), *others)
    with pytest.raises(ConfigError, match=r"stages\[0\]\.training\.teacher_precision: int8, but execution\.launch"):
        preflight(launched(recipe.model_copy(update={"stages": stages}), processes=2), folder / "cache")
    preflight(launched(recipe, processes=2), folder / "cache")


def test_a_family_whose_blocks_share_their_weights_is_refused() -> None:
    config = AlbertConfig(
        vocab_size=20,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(ConfigError, match="albert model does not have its 4 blocks in one list"):
        parts_of(AlbertModel(config))


def test_the_plan_keeps_no_answers_of_a_divided_teacher(recipe: Recipe, folder: Path) -> None:
    config: StageConfig = stage_of(recipe, "tinybert", folder, rows=64).config
    facts = preflight(recipe, folder / "cache")
    whole, divided = (
        cost_of(config, facts, folder / "cache", 1e9, room=1e9, processes=2, shards_teacher=shards)
        for shards in (False, True)
    )
    assert whole.kept_bytes > 0 == divided.kept_bytes
    assert divided.process_bytes < whole.process_bytes
    assert isinstance(plain_ports(folder).world, OneProcess)
