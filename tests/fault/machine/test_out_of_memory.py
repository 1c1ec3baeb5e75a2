"""A forward pass that is too large is halved with the same gradient, or refused by name if it cannot be split."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.core.errors import OutOfMemoryError
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from stages.data.batching.tokens import Batch
from stages.device.runtime import is_out_of_memory
from stages.objective.terms import Needs, Outputs, run_model
from stages.ports.plain import MetricList, SilentProgress, plain_ports
from stages.training import trainer as loop
from stages.training.trainer import Trainer
from tests.support.toys import make_trainer, toy_recipe


def a_trainer(folder: Path, sink: MetricList, *, latent: dict[str, object] | None = None) -> Trainer:
    recipe = toy_recipe(folder / "in", steps=6)
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    changed: dict[str, object] = {}
    if latent is not None:
        changed["objective"] = LatentObjective.model_validate(latent)
    ports = plain_ports(folder, sink=sink, gradient_share_every=1)
    return make_trainer(config.model_copy(update=changed), ports)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in trainer.parameters.items() if parameter.grad is not None}


class Memory:
    """Limit on padded tokens in the student's forward pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, *, after: int = 0) -> None:
        self.tokens, self.left = tokens, after
        self.refused: list[int] = []
        monkeypatch.setattr(loop, "run_model", self.run)

    def run(self, model: torch.nn.Module, batch: Batch, needs: Needs) -> Outputs:
        """Refuse passes over the limit like a device, once `after` passes have succeeded."""
        size = batch.input_ids.numel()
        if size > self.tokens and self.left <= 0:
            self.refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.left -= 1
        return run_model(model, batch, needs)


def test_passes_are_halved_until_they_fit_with_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = MetricList(), MetricList()
    plain, tight = (a_trainer(tmp_path, sink) for sink in sinks)
    tokens = plain.gradient()
    whole = sum(batch.input_ids.numel() for batch in plain.microbatches())
    memory = Memory(monkeypatch, whole // 3)
    assert tight.gradient() == tokens
    assert len(memory.refused) >= 2
    assert tight.batches.microbatch_tokens <= whole // 3
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(tight)[name], gradient, rtol=1e-4, atol=1e-7)
    assert tight.meter.means() == pytest.approx(plain.meter.means(), rel=1e-5)
    assert tight.meter.tokens == plain.meter.tokens
    progress = tight.ports.progress
    assert isinstance(progress, SilentProgress)
    assert "execution.microbatch_tokens=" in progress.notes[-1]
    assert [step for step, _ in sinks[1].points] == [0], "the measurement is logged once"


def test_running_out_of_memory_within_a_step_leaves_no_partial_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tight = (a_trainer(tmp_path, MetricList()) for _ in range(2))
    for trainer in (plain, tight):
        trainer.batches.microbatch_tokens = 40
    sizes = [batch.input_ids.numel() for batch in plain.microbatches()]
    assert len(sizes) == 2
    plain.gradient()
    memory = Memory(monkeypatch, min(sizes) - 1, after=1)
    tight.gradient()
    assert memory.refused[0] == sizes[1], "the first pass should have succeeded"
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(tight)[name], gradient, rtol=1e-4, atol=1e-7)


def test_halved_passes_stay_halved_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, resumed = (a_trainer(tmp_path, MetricList()) for _ in range(2))
    assert "microbatch_tokens" not in whole.state.saved(teachers_cached=False).numbers
    size = sum(batch.input_ids.numel() for batch in whole.microbatches())
    with monkeypatch.context() as patch:
        Memory(patch, size // 2)
        whole.train_step()
    resumed.state.restore(whole.state.saved(teachers_cached=False))
    assert resumed.batches.microbatch_tokens == whole.batches.microbatch_tokens < size
    for trainer in (whole, resumed):
        trainer.train_step()
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name


@pytest.mark.parametrize("latent", [None, {"layer_map": {"kind": "optimal_transport"}}])
def test_a_pass_that_cannot_be_split_is_refused_by_name(
    latent: dict[str, object] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = a_trainer(tmp_path, MetricList(), latent=latent)
    before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
    Memory(monkeypatch, 0)
    with pytest.raises(OutOfMemoryError, match=r"reduce training\.batch or the data.s max_length"):
        trainer.train_step()
    assert trainer.state.step == 0
    assert all(torch.equal(before[name], parameter) for name, parameter in trainer.parameters.items())


def test_other_errors_are_not_treated_as_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = a_trainer(tmp_path, MetricList())

    def broken(*_: object) -> Outputs:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "run_model", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train_step()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_the_systems_out_of_memory_error_is_recognised() -> None:
    code = (
        "import resource, torch\n"
        "from stages.device.runtime import is_out_of_memory\n"
        "room = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (room + (1 << 26),) * 2)\n"
        "try:\n"
        "    torch.empty(1 << 30)\n"
        "except RuntimeError as error:\n"
        "    print(is_out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "True"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
