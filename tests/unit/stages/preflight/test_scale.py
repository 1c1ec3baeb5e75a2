"""The cost model of a stage against counts: torch's operations, a kernel's bytes, tensors in memory, files on disk."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import StudentShape
from stages.ports.plain import SealedStates, plain_ports
from stages.ports.world import World
from stages.preflight.checks import preflight
from stages.preflight.cost import Cost, cost_of
from stages.preflight.scale import (
    SUMS_IN_A_STEP,
    Group,
    Link,
    Sizes,
    operations_per_token,
    sent_bytes,
    token_bytes,
)
from stages.run import PreparedStage, run_stage
from tests.support.ranks import in_processes
from tests.support.toys import make_trainer, toy_recipe

SHAPE = StudentShape(num_layers=3, hidden_size=24, num_attention_heads=4, intermediate_size=40)
STEPS = 3
POOLER = 8 * 8 + 8
"""Parameters of the student that no term reaches, so that nothing is kept for them; the model counts them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    return toy_recipe(folder / "in", steps=STEPS)


@pytest.fixture(scope="module")
def config(recipe: Recipe) -> StageConfig:
    return stage_config(recipe, recipe.stages[0], TaskTeachers())


@pytest.fixture(scope="module")
def cost(recipe: Recipe, config: StageConfig, folder: Path) -> Cost:
    return cost_of(config, preflight(recipe, folder / "cache"), folder / "cache", 1e9)


def test_operations_are_those_that_torch_counts() -> None:
    config = BertConfig(
        vocab_size=50,
        num_hidden_layers=SHAPE.num_layers,
        hidden_size=SHAPE.hidden_size,
        num_attention_heads=SHAPE.num_attention_heads,
        intermediate_size=SHAPE.intermediate_size,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False)
    rows, length = 3, 17
    with FlopCounterMode(display=False) as forward:
        output = model(torch.ones(rows, length, dtype=torch.long)).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    expected = rows * length * operations_per_token(SHAPE, length)
    assert forward.get_total_flops() == expected
    assert backward.get_total_flops() == 2 * expected


def bytes_on_the_wire() -> int:
    """Return the bytes that this process has sent through its TCP connections so far, as the kernel counts them."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                # linux/tcp.h: struct tcp_info has tcpi_bytes_sent at 200, and tcpi_bytes_retrans, part of it, at 208
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        except OSError:  # closed meanwhile, or no TCP
            continue
        sent, again = struct.unpack_from("<QQ", info, 200)
        total += sent - again
    return total


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_each_process_sends_as_much_as_a_ring_needs(processes: int, tmp_path: Path) -> None:
    numbers = 600_000

    def work(world: World) -> dict[str, Tensor]:
        with world.joined():
            world.summed([0.0])
            before = bytes_on_the_wire()
            tensor = torch.ones(numbers)
            world.sum_tensors([tensor])
            assert tensor[0] == processes
            world.summed([0.0])  # all of it has arrived
            sent = bytes_on_the_wire() - before
            world.summed([0.0])  # no process closes its connections before
            return {"sent": torch.tensor(sent)}

    for result in in_processes(processes, work, tmp_path / "group"):
        assert int(result["sent"]) == pytest.approx(sent_bytes(4 * numbers, processes), rel=0.01)


def test_the_time_of_a_sum_is_that_of_its_messages() -> None:
    link = Link(bytes_per_second=1e9, seconds_per_message=1e-3)
    # Six messages of a quarter of 4 MB each.
    assert link.sum_seconds(4e6, 4) == pytest.approx(6 * (1e-3 + 1e6 / 1e9))
    group = Group(4, rate=2e9, gradients=link, sums=Link(1e9, 1e-4))
    exchange = 6 * 2e-3 + SUMS_IN_A_STEP * 6 * 1e-4
    assert group.exchange_seconds(4e6) == pytest.approx(exchange, rel=1e-4)
    assert group.seconds(8e12, steps=100, gradient_bytes=4e6) == pytest.approx(1000 + 100 * exchange)
    assert replace(group, processes=1).seconds(8e12, 100, 4e6) == 4000


def test_processes_sum_up_numbers_as_often_as_the_model_says(config: StageConfig, folder: Path) -> None:
    stage = PreparedStage.of(config, None, plain_ports(folder), None)

    def sums_of(steps: int, world: World) -> int:
        calls = 0
        summed = world.summed

        def counted(numbers: list[float]) -> list[float]:
            nonlocal calls
            calls += 1
            return summed(numbers)

        world.summed = counted  # type: ignore[method-assign]
        training = config.training.model_copy(
            update={"duration": config.training.duration.model_copy(update={"amount": steps})}
        )
        short = replace(stage, config=config.model_copy(update={"training": training}))
        short.train(replace(plain_ports(folder), world=world))
        return calls

    one, four = (
        in_processes(2, lambda world, n=steps: {"calls": torch.tensor(sums_of(n, world))}, folder / f"{steps}")  # type: ignore[misc]
        for steps in (1, 4)
    )
    assert int(four[0]["calls"] - one[0]["calls"]) == 3 * SUMS_IN_A_STEP


def test_gradient_moments_and_models_have_the_sizes_of_their_tensors(
    config: StageConfig, cost: Cost, folder: Path
) -> None:
    trainer = make_trainer(config, plain_ports(folder))
    trainer.train_step()
    trainer.gradient()
    reached = sum(p.grad.numel() for p in trainer.parameters.values() if p.grad is not None)
    assert cost.sizes.trained - reached == POOLER
    assert cost.sizes.gradient_bytes == 4 * (reached + POOLER)
    moments = sum(
        tensor.nbytes for state in trainer.optimizer.state.values() for tensor in state.values() if tensor.ndim
    )
    weights = sum(p.nbytes for module in (trainer.student, trainer.objective) for p in module.parameters())
    # The teacher's copy in float32, and what was loaded.
    teacher = 2 * 4 * cost.sizes.teachers
    unused = 4 * 3 * POOLER
    assert cost.process_bytes == weights + 4 * reached + moments + teacher + unused


def data_bytes(file: Path) -> int:
    """Return the bytes of all tensors in a file; the rest of the file is their names."""
    with file.open("rb") as opened:
        (header,) = struct.unpack("<Q", opened.read(8))
    return file.stat().st_size - 8 - header


def test_states_and_checkpoints_have_the_sizes_of_their_files(config: StageConfig, cost: Cost, tmp_path: Path) -> None:
    ports = plain_ports(tmp_path, states=SealedStates(tmp_path / "states"))
    trainer = make_trainer(config, ports)
    trainer.train_step()
    ports.states.save(trainer.state.saved(teachers_cached=False))
    # Besides the tensors, AdamW's count of each one's steps and the sums of the meter.
    counts = 4 * len(trainer.optimizer.state) + trainer.meter.sums.nbytes + trainer.meter.counts.nbytes
    unused_moments = 2 * 4 * POOLER
    assert data_bytes(tmp_path / "states" / "step-1" / "tensors") == cost.sizes.state_bytes + counts - unused_moments
    result = run_stage(config, None, plain_ports(tmp_path))
    files = list(Path(result.checkpoint.path).rglob("*.safetensors"))
    assert len(files) == 2, "the model, and its projections"
    assert sum(map(data_bytes, files)) == cost.sizes.checkpoint_bytes


def test_a_state_with_the_best_weights_has_them_twice() -> None:
    sizes = Sizes(student=100, projections=10, frozen=40)
    assert sizes.state_bytes == 4 * (110 + 2 * 70)
    assert replace(sizes, keeps_best=True).state_bytes == sizes.state_bytes + 4 * 110
    assert sizes.states_bytes == 3 * sizes.state_bytes


def test_tokenised_text_has_the_size_of_its_files(config: StageConfig, folder: Path) -> None:
    trainer = make_trainer(config, plain_ports(folder))
    tokens = trainer.tokens
    names = ("ids.bin", "types.bin", "lengths.npy", "starts.npy")
    found = [
        folder
        for folder in (trainer.ports.cache / "tokens").iterdir()
        if (folder / "ids.bin").stat().st_size == 4 * tokens.num_tokens
    ]
    headers = 2 * 128
    assert len(found) == 1
    expected = sum((found[0] / name).stat().st_size for name in names) - headers
    assert token_bytes(tokens.num_tokens, len(tokens)) == expected
