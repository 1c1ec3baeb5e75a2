"""A cached teacher gives the same training as a live one, also after damage to the cache."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.core.errors import ConfigError, Interrupted
from schemas.core.training import Training
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.models.student import encoder_flops
from stages.objective.terms import Outputs, Target
from stages.ports.plain import MemoryStates, SilentProgress, plain_ports
from stages.ports.protocols import Ports, TrainingState
from stages.preflight.checks import preflight
from stages.preflight.cost import cost_of
from stages.training import teacher_cache
from stages.training.fit import fit
from stages.training.teacher_cache import tensors_digest
from stages.training.trainer import Trainer
from tests.support.toys import LATENTS, make_trainer, toy_recipe

ROOM = 10**9


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return toy_recipe(tmp_path_factory.mktemp("toy"))


def stage(recipe: Recipe, latent: dict[str, Any], **training: Any) -> StageConfig:
    """The general stage with three epochs and without dropout."""
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    changed = config.training.model_dump() | {"duration": "3 epochs", "dropout": 0} | training
    return config.model_copy(
        update={"objective": LatentObjective.model_validate(latent), "training": Training.model_validate(changed)}
    )


def asked_once(config: StageConfig, ports: Ports) -> Trainer:
    trainer = make_trainer(config, ports)
    trainer.teachers.fill_caches(trainer.batches, trainer.num_steps, trainer.ports, "general")
    return trainer


def values(outputs: Outputs, mask: torch.Tensor, states: Collection[str] = ("query", "key")) -> Iterator[torch.Tensor]:
    """Yield all cached outputs of a forward pass at real tokens."""
    for depth in sorted(outputs.hidden):
        yield outputs.hidden[depth][mask]
    for layer in sorted(outputs.recording.layers):
        noted = outputs.recording.attention[layer]
        for name in sorted(states):
            yield getattr(noted, name).transpose(1, 2)[mask]
        yield torch.tensor(noted.scaling)
    if outputs.logits is not None:
        yield outputs.logits


@pytest.mark.parametrize("name", sorted(set(LATENTS) - {"rail", "random_map"}))
def test_cached_outputs_equal_those_of_the_teacher(name: str, recipe: Recipe, tmp_path: Path) -> None:
    trainer = asked_once(stage(recipe, LATENTS[name]), plain_ports(tmp_path, teacher_cache_bytes=ROOM))
    assert len(trainer.teachers.caches) == 1
    for step in range(trainer.batches.steps_in_epoch(0)):
        batch = trainer.tokens.batch(np.concatenate(trainer.batches.step(step)))
        mask = batch.attention_mask.bool()
        kept = trainer.teachers.target(batch)
        live = trainer.objective.read_teachers(trainer.teachers.models, batch)
        assert kept is not None
        assert live is not None
        assert len(kept.pools) == len(live.pools)
        read = trainer.objective.teacher_needs(0).states
        pairs = zip(values(kept.outputs[0], mask, read), values(live.outputs[0], mask, read), strict=True)
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_rows_keep_the_dtype_and_bits_of_the_computation(precision: str, recipe: Recipe, tmp_path: Path) -> None:
    config = stage(recipe, {}, precision=precision)
    trainer = asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=ROOM))
    (cache,) = trainer.teachers.caches
    for rows in cache.batches:
        batch = trainer.tokens.batch(rows)
        with trainer.runtime.autocast():
            live = trainer.objective.read_teachers(trainer.teachers.models, batch)
        assert live is not None
        mask = batch.attention_mask.bool()
        kept = cache.read(batch)
        for actual, expected in zip(values(kept, mask), values(live.outputs[0], mask), strict=True):
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)
    number = torch.bfloat16 if precision == "bf16" else torch.float32
    assert {part.dtype for part in cache.parts} == {number}


def test_a_teacher_in_8_bits_answers_each_row_the_same_in_any_batch(recipe: Recipe, tmp_path: Path) -> None:
    config = stage(recipe, {}, precision="fp32", teacher_precision="int8")
    trainer = asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=ROOM))
    exact = make_trainer(stage(recipe, {}, precision="fp32"), plain_ports(tmp_path / "exact"))
    (cache,) = trainer.teachers.caches
    batch = trainer.tokens.batch(np.concatenate(trainer.batches.step(0)))
    mask = batch.attention_mask.bool()
    live, full = (each.objective.read_teachers(each.teachers.models, batch) for each in (trainer, exact))
    assert live is not None
    assert full is not None
    read = (values(outputs, mask) for outputs in (cache.read(batch), live.outputs[0], full.outputs[0]))
    triples = zip(*read, strict=True)
    for kept, actual, expected in triples:
        torch.testing.assert_close(kept, actual, rtol=1e-4, atol=1e-5)
        assert (actual - expected).norm() < 0.1 * expected.norm()
    trainer.train_step()
    assert trainer.state.step == 1


def trained(config: StageConfig, ports: Ports) -> Trainer:
    """Run the loop of a stage to its end."""
    trainer = make_trainer(config, ports)
    arguments = (trainer.student, trainer.teachers.models, trainer.tokens, trainer.objective)
    fit(*arguments, config.training, ports, stage="general")
    return trainer


def test_a_cached_stage_ends_with_the_same_weights_and_deletes_its_cache(recipe: Recipe, tmp_path: Path) -> None:
    config = stage(recipe, {})
    plain = trained(config, plain_ports(tmp_path / "plain"))
    ports = plain_ports(tmp_path / "kept", teacher_cache_bytes=ROOM)
    kept = trained(config, ports)
    for (name, expected), actual in zip(plain.student.named_parameters(), kept.student.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4, msg=name)
    assert isinstance(ports.progress, SilentProgress)
    assert ports.progress.started[0][0] == "general, teacher"
    assert not list(ports.cache.glob("teacher-*"))


class StopsAfter:
    """Requests a stop at the given call."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("lost", [False, True], ids=["cache there", "cache lost"])
def test_a_resumed_stage_ends_in_the_same_weights(lost: bool, recipe: Recipe, tmp_path: Path) -> None:
    config = stage(recipe, {})
    whole = trained(config, plain_ports(tmp_path / "whole", teacher_cache_bytes=ROOM))
    states = MemoryStates()
    room = {"teacher_cache_bytes": ROOM, "states": states}
    cut = tmp_path / "cut"
    num_batches = len(asked_once(config, plain_ports(cut, **room)).teachers.caches[0].batches)
    with pytest.raises(Interrupted):
        trained(config, plain_ports(cut, **room, stop_requested=StopsAfter(num_batches + 30)))
    assert isinstance(states.saved[-1], TrainingState)
    folders = list((cut / "cache").glob("teacher-*"))
    assert folders
    for folder in folders if lost else ():
        shutil.rmtree(folder)
    resumed = trained(config, plain_ports(cut, **room))
    assert tensors_digest(resumed.student) == tensors_digest(whole.student)
    assert tensors_digest(resumed.objective) == tensors_digest(whole.objective)


@pytest.mark.parametrize("rooms", [(ROOM, 0), (0, ROOM), (ROOM, ROOM), (0, 0)])
def test_a_change_of_caching_after_a_resume_is_reported(rooms: tuple[int, int], recipe: Recipe, tmp_path: Path) -> None:
    config, states = stage(recipe, {}), MemoryStates()
    folders, before = {"states": states}, rooms[0]
    batches = len(asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=ROOM)).teachers.caches[0].batches)
    stop = StopsAfter((batches if before else 0) + 30)
    with pytest.raises(Interrupted):
        trained(config, plain_ports(tmp_path, **folders, teacher_cache_bytes=before, stop_requested=stop))
    ports = plain_ports(tmp_path, **folders, teacher_cache_bytes=rooms[1])
    trained(config, ports)
    assert isinstance(ports.progress, SilentProgress)
    notes = [note for note in ports.progress.notes if "the last bits" in note]
    assert len(notes) == (before != rooms[1])


def test_a_stop_while_the_cache_is_filled_keeps_the_cached_rows(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "BATCH_TOKENS", 64)
    config = stage(recipe, {})
    stop = StopsAfter(2)
    with pytest.raises(Interrupted, match="teacher ran"):
        asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=ROOM, stop_requested=stop))
    computed: list[int] = []
    compute = teacher_cache.TeacherCache._compute

    def counted(cache: teacher_cache.TeacherCache, rows: np.ndarray) -> None:
        computed.append(len(rows))
        compute(cache, rows)

    monkeypatch.setattr(teacher_cache.TeacherCache, "_compute", counted)
    trainer = asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=ROOM))
    assert len(computed) == len(trainer.teachers.caches[0].batches) - 3


def test_damage_is_detected_and_repaired_before_use(recipe: Recipe, tmp_path: Path) -> None:
    trainer = asked_once(stage(recipe, {}), plain_ports(tmp_path, teacher_cache_bytes=ROOM))
    (cache,) = trainer.teachers.caches
    rows = np.arange(len(trainer.tokens))
    batch = trainer.tokens.batch(rows)
    mask = batch.attention_mask.bool()
    whole = list(values(cache.read(batch), mask))
    draw = random.Random(0)
    files = sorted(cache.folder.iterdir())
    assert len(files) == len(cache.parts) + 1
    for case in range(150):
        file = files[case % len(files)]
        offset = draw.randrange(file.stat().st_size)
        with file.open("r+b") as opened:
            opened.seek(offset)
            byte = opened.read(1)[0]
            opened.seek(offset)
            opened.write(bytes([byte ^ (1 << draw.randrange(8))]))
        assert cache._cached(rows) is None, f"{file.name}, byte {offset}"
        mended = values(cache.read(batch), mask)
        assert all(torch.equal(a, b) for a, b in zip(mended, whole, strict=True))
        assert cache._cached(rows) is not None


def test_a_truncated_cache_file_is_filled_again(recipe: Recipe, tmp_path: Path) -> None:
    ports = plain_ports(tmp_path, teacher_cache_bytes=ROOM)
    config = stage(recipe, {})
    first = asked_once(config, ports).teachers.caches[0]
    batch = first.tokens.batch(np.arange(len(first.tokens)))
    mask = batch.attention_mask.bool()
    whole = [value.clone() for value in values(first.read(batch), mask)]
    os.truncate(first.folder / f"{first.parts[0].name}.bin", 100)
    again = asked_once(config, ports).teachers.caches[0]
    assert all(torch.equal(a, b) for a, b in zip(values(again.read(batch), mask), whole, strict=True))


@pytest.mark.parametrize("full", [True, False], ids=["full disk", "over the limit"])
def test_without_space_for_a_cache_the_teacher_runs_in_every_epoch(
    full: bool, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if full:
        monkeypatch.setattr(os, "posix_fallocate", no_room)
    ports = plain_ports(tmp_path, teacher_cache_bytes=ROOM if full else 1000)
    trainer = trained(stage(recipe, {}), ports)
    assert trainer.state.step == 0  # `fit` creates its own loop
    assert isinstance(ports.progress, SilentProgress)
    (note,) = ports.progress.notes
    assert ("No space left" if full else "execution.teacher_cache_gigabytes") in note
    assert not list(ports.cache.glob("teacher-*"))


@pytest.mark.parametrize(
    ("latent", "training", "room"),
    [
        ({}, {"duration": "1 epochs"}, ROOM),
        ({}, {"duration": "3 epochs"}, 0),
        (LATENTS["random_map"], {"duration": "3 epochs"}, ROOM),
    ],
    ids=["one epoch", "switched off", "map drawn in each epoch"],
)
def test_no_cache_is_created_if_useless_or_invalid(
    latent: dict[str, Any], training: dict[str, Any], room: int, recipe: Recipe, tmp_path: Path
) -> None:
    config = stage(recipe, latent, **training)
    trainer = asked_once(config, plain_ports(tmp_path, teacher_cache_bytes=room))
    assert trainer.teachers.caches == []
    assert isinstance(trainer.teachers.target(trainer.microbatches()[0]), Target)


def test_the_plan_counts_one_teacher_pass_if_the_cache_fits(recipe: Recipe, tmp_path: Path) -> None:
    config, facts = stage(recipe, {}), preflight(recipe, tmp_path)
    cost, once, full = (cost_of(config, facts, tmp_path, 1e9, room=room) for room in (0, ROOM, 1e3))
    ports = plain_ports(tmp_path, teacher_cache_bytes=ROOM)
    trainer = asked_once(config, ports)
    assert once.kept_bytes == trainer.teachers.caches[0].num_bytes
    assert cost.kept_bytes == full.kept_bytes == 0
    length = int(trainer.tokens.num_tokens / len(trainer.tokens))
    per_token = encoder_flops(facts.teacher, sequence_length=length) / length
    spared = (cost.tokens - trainer.tokens.num_tokens) * per_token
    assert cost.flops - once.flops == pytest.approx(spared)
    assert full.flops == cost.flops


def test_the_plan_refuses_a_step_whose_rows_are_compared_across_forward_passes(recipe: Recipe, tmp_path: Path) -> None:
    latent = {"terms": [{"kind": "sample_relation"}]}
    config, facts = stage(recipe, latent), preflight(recipe, tmp_path)
    cost_of(config, facts, tmp_path, 1e9)
    with pytest.raises(ConfigError, match=r"cut into \d+ forward passes by execution.microbatch"):
        cost_of(config, facts, tmp_path, 1e9, microbatch_tokens=16)
    cost_of(stage(recipe, {}), facts, tmp_path, 1e9, microbatch_tokens=16)


def test_different_teachers_or_rows_have_different_caches(recipe: Recipe, tmp_path: Path) -> None:
    ports = plain_ports(tmp_path, teacher_cache_bytes=ROOM)
    first = asked_once(stage(recipe, {}), ports).teachers.caches[0]
    trainer = make_trainer(stage(recipe, {}), ports)
    with torch.no_grad():
        next(trainer.teachers.models[0].parameters()).add_(1e-3)
    trainer.teachers.fill_caches(trainer.batches, trainer.num_steps, trainer.ports, "general")
    assert trainer.teachers.caches[0].digest != first.digest
    relation = asked_once(stage(recipe, LATENTS["minilm_v2"]), ports).teachers.caches[0]
    assert len({first.digest, trainer.teachers.caches[0].digest, relation.digest}) == 3
