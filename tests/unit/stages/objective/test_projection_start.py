"""First values of projections: the channels of an extracted student, least squares, and what is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from schemas.core.errors import ConfigError, DataError, Interrupted
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef
from stages.build import EXTRACTION, PROJECTIONS, read_extraction
from stages.data.batching.tokens import Batch
from stages.models.encoders import load_encoder, locate
from stages.models.starts.least_squares import LeastSquares
from stages.models.tensors import read_tensors
from stages.ports.plain import MemoryStates, plain_ports
from stages.preflight.checks import preflight
from stages.preflight.model_checks import check_parent_channels
from stages.run import run_stage
from stages.training.trainer import Trainer
from tests.support.toys import make_trainer, toy_recipe_dict, toy_teacher

EXTRACT = {"kind": "extract", "units": "random", "seed": 3}
ATTENTION, HIDDEN, EMBEDDING = ({"kind": kind} for kind in ("attention", "hidden", "embedding"))
WHOLE = {"num_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    content = toy_recipe_dict(tmp_path_factory.mktemp("in"), steps=2)
    content["student"]["start"] = EXTRACT
    return content


def recipe_of(content: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate(deepcopy(content) | changes)


def general(recipe: Recipe, *terms: dict[str, Any], start: str = "channels", **objective: Any) -> StageConfig:
    latent = {"terms": list(terms or (HIDDEN, EMBEDDING)), "projection_start": start} | objective
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    return config.model_copy(update={"objective": LatentObjective.model_validate(latent)})


def maps_of(trainer: Trainer) -> dict[str, nn.Linear]:
    return {name: linear for _, name, linear in trainer.objective.fresh}


def channels_of(checkpoint: CheckpointRef) -> list[int]:
    channels: list[int] = json.loads((Path(checkpoint.path) / EXTRACTION).read_text(encoding="utf-8"))[
        "hidden_channels"
    ]
    return channels


def kept(checkpoint: CheckpointRef) -> dict[str, Tensor]:
    return read_tensors(Path(checkpoint.path) / PROJECTIONS)


def still(config: StageConfig) -> StageConfig:
    """The stage with a learning rate that moves no weight far."""
    optimizer = config.training.optimizer.model_copy(update={"learning_rate": 1e-12})
    return config.model_copy(update={"training": config.training.model_copy(update={"optimizer": optimizer})})


@pytest.mark.parametrize("projection", ["per_layer", "shared"])
def test_a_word_is_placed_in_the_teachers_channels(projection: str, content: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(general(recipe_of(content), projection=projection), plain_ports(tmp_path))
    assert set(maps_of(trainer)) == ({"shared"} if projection == "shared" else {"hidden_0", "hidden_1", "embedding"})
    teacher = load_encoder(locate(recipe_of(content).pretrained))
    words = teacher.get_input_embeddings().weight.detach().numpy()
    of_student = trainer.student.get_input_embeddings().weight  # type: ignore[operator]
    channels = [
        next(c for c in range(16) if np.array_equal(words[:, c], column)) for column in of_student.detach().numpy().T
    ]
    assert channels == sorted(set(channels)), "the toy's channels should differ"
    for name in ("embedding", "hidden_0", "hidden_1"):
        with torch.no_grad():
            projected = trainer.objective.projections[0].student(name, of_student).numpy()  # type: ignore[operator,union-attr]
        np.testing.assert_array_equal(projected[:, channels], words[:, channels])
        rest = [channel for channel in range(16) if channel not in channels]
        np.testing.assert_array_equal(projected[:, rest], 0)


@pytest.mark.parametrize("start", [EXTRACT, {"kind": "teacher_layers"}])
def test_equal_widths_are_matched_exactly(start: dict[str, Any], content: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(content, student={"shape": WHOLE, "start": start})
    trainer = make_trainer(general(recipe), plain_ports(tmp_path))
    trainer.student.eval()
    batch = trainer.microbatches()[0]
    target = trainer.teachers.target(batch)
    with torch.no_grad():
        output = trainer.answers(batch)
        losses = trainer.objective.compute(output, target, batch)
    assert target is not None
    for number, states in output.hidden.items():
        assert torch.equal(states, target.outputs[0].hidden[number])
    assert all(float(loss.total) == 0 for loss in losses.values())


def test_channels_are_handed_on_to_stages_that_add_a_projection(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(content)
    first = run_stage(still(general(recipe, ATTENTION)), None, plain_ports(tmp_path / "1")).checkpoint
    second = run_stage(still(general(recipe, HIDDEN)), first, plain_ports(tmp_path / "2")).checkpoint
    third = run_stage(still(general(recipe, HIDDEN, EMBEDDING)), second, plain_ports(tmp_path / "3")).checkpoint
    channels = channels_of(first)
    assert len(channels) == 8
    assert channels_of(third) == channels_of(second) == channels
    expected = torch.zeros(16, 8)
    expected[channels, torch.arange(8)] = 1
    assert kept(third).keys() == {
        f"maps.{n}.{p}" for n in ("hidden_0", "hidden_1", "embedding") for p in ("weight", "bias")
    }
    for name, tensor in kept(third).items():
        torch.testing.assert_close(tensor, expected if name.endswith("weight") else torch.zeros(16), rtol=0, atol=1e-6)


def test_trained_projections_are_not_started_again(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(content)
    first = run_stage(general(recipe, HIDDEN), None, plain_ports(tmp_path / "1")).checkpoint
    for start in ("channels", "least_squares"):
        second = run_stage(still(general(recipe, HIDDEN, start=start)), first, plain_ports(tmp_path / start)).checkpoint
        for name, tensor in kept(second).items():
            torch.testing.assert_close(tensor, kept(first)[name], rtol=0, atol=1e-6)


def test_a_parent_without_channels_is_refused_where_a_projection_is_new(
    content: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_of(content)
    parent = run_stage(general(recipe, HIDDEN), None, plain_ports(tmp_path / "1")).checkpoint
    file = Path(parent.path) / EXTRACTION
    summary = json.loads(file.read_text(encoding="utf-8"))
    del summary["hidden_channels"]  # as earlier versions wrote it
    file.write_text(json.dumps(summary), encoding="utf-8")
    run_stage(general(recipe, HIDDEN), parent, plain_ports(tmp_path / "2"))
    run_stage(general(recipe, EMBEDDING, start="least_squares"), parent, plain_ports(tmp_path / "3"))
    with pytest.raises(
        ConfigError, match=r"projection_start: channels, but .*parent|/1/.* has no projection of embedding"
    ):
        run_stage(general(recipe, HIDDEN, EMBEDDING), parent, plain_ports(tmp_path / "4"))

    def checked(*starts: str) -> None:
        objectives = [{"terms": [HIDDEN, EMBEDDING], "projection_start": start} for start in starts]
        stages = [
            {"name": name, "training": content["stages"][0]["training"], "objective": {"kind": "latent", **objective}}
            for name, objective in zip(("general", "general_enhanced"), objectives, strict=True)
        ]
        changed = recipe_of(content, stages=stages)
        check_parent_channels(Path(parent.path), changed, changed.stages)

    checked("random", "channels")  # by then the embedding's is trained
    with pytest.raises(
        ConfigError, match=r"stages\.general\.objective\.projection_start: .*no projection of embedding"
    ):
        checked("channels", "random")
    file.unlink()
    with pytest.raises(ConfigError, match=r"extraction\.json is missing"):
        checked("channels", "random")
    for text in ("[1", '{"hidden_channels": [0.5]}', '{"hidden_channels": 3}', "[]"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"extraction\.json"):
            read_extraction(Path(parent.path))


@pytest.mark.parametrize(
    ("start", "objective", "student_start", "others", "reason"),
    [
        ("channels", {}, {"kind": "random"}, [], "student.start.kind random has no channels of the teacher"),
        ("channels", {}, {"kind": "model", "model": "./other"}, [], "student.start.kind model has no channels"),
        ("channels", {"common_width": 12}, EXTRACT, [], "projected to channels that are neither's"),
        ("least_squares", {"common_width": 12}, EXTRACT, [], "projected to channels that are neither's"),
        ("channels", {"projection": "none"}, EXTRACT, [], "no projection can be started"),
        ("channels", {}, EXTRACT, [{"model": "./other"}], "channels of the first teacher alone"),
    ],
)
def test_starts_that_cannot_be_are_refused_in_the_recipe(
    start: str, objective: dict[str, Any], student_start: Any, others: list[Any], reason: str, content: dict[str, Any]
) -> None:
    changed = deepcopy(content)
    changed["student"]["start"] = student_start
    changed["teacher"]["others"] = others
    changed["stages"][0]["objective"] = {"kind": "latent", "projection_start": start, **objective}
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate(changed)
    found = {".".join(map(str, error["loc"])): error["msg"] for error in refused.value.errors()}
    assert reason in found["stages.0.objective.projection_start"]


def test_a_given_teacher_of_another_width_has_no_channels_of_the_student(
    content: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import BertConfig

    from tests.support.builders import tiny_tokenizer
    from tests.support.toys import random_model

    sizes = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    wide = BertConfig(vocab_size=len(tiny_tokenizer()), hidden_size=24, **sizes)
    random_model(tmp_path / "wide", wide, ("bad", "good"))
    changed = deepcopy(content)
    changed["teacher"]["task_model"] = {"kind": "given", "model": str(tmp_path / "wide")}
    for start, words in (("least_squares", None), ("channels", "this teacher is 24 wide")):
        for stage in changed["stages"][1:3]:
            stage["objective"] = {"kind": "latent", "projection_start": start}
        recipe = Recipe.model_validate(changed)
        if words is None:
            preflight(recipe, tmp_path / "cache")
        else:
            with pytest.raises(ConfigError, match=words):
                preflight(recipe, tmp_path / "cache")


# Least squares


def states_by_hand(model: nn.Module, batches: list[Batch], number: int, tokens: str) -> Tensor:
    rows = []
    with torch.no_grad():
        for batch in batches:
            hidden = model.eval()(**batch.model_inputs(), output_hidden_states=True).hidden_states[number]
            for states, mask in zip(hidden, batch.attention_mask.bool(), strict=True):
                real = states[mask]
                rows.append({"all": real, "first": real[:1], "mean": real.mean(0, keepdim=True)}[tokens])
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("tokens", "layer_map"), [("all", "uniform"), ("first", "mean"), ("mean", "optimal_transport")]
)
def test_least_squares_fits_the_states_that_are_compared(
    tokens: str, layer_map: str, content: dict[str, Any], tmp_path: Path
) -> None:
    config = general(
        recipe_of(content), HIDDEN | {"tokens": tokens}, EMBEDDING, start="least_squares", layer_map={"kind": layer_map}
    )
    trainer = make_trainer(config, plain_ports(tmp_path))
    batches = [trainer.tokens.batch(np.array([row])) for row in range(len(trainer.tokens))]
    teacher = load_encoder(locate(config.pretrained))
    student = trainer.student
    blocks = {"uniform": ([2], [4]), "mean": ([1, 2], [3, 4]), "optimal_transport": ([1, 2, 3, 4], [1, 2, 3, 4])}
    pairs = {"embedding": (0, [0], "all"), "hidden_0": (1, blocks[layer_map][0], tokens)}
    for name, (of_student, of_teacher, pooled) in pairs.items():
        fit, states = LeastSquares(), states_by_hand(student, batches, of_student, pooled)
        wanted = torch.stack([states_by_hand(teacher, batches, number, pooled) for number in of_teacher]).mean(0)
        fit.add(states, wanted)
        weight, bias = fit.solved()
        with torch.no_grad():
            projected = maps_of(trainer)[name](states).double()
        torch.testing.assert_close(projected, states.double() @ weight.T + bias, rtol=1e-3, atol=1e-3)
        assert float((projected - wanted).square().mean()) < 0.9 * float(wanted.var(0).mean())


def first_losses(config: StageConfig, folder: Path) -> dict[str, float]:
    trainer = make_trainer(config, plain_ports(folder))
    assert trainer.student.training
    batch = trainer.microbatches()[0]
    trainer.student.eval()
    with torch.no_grad():
        losses = trainer.objective.compute(trainer.answers(batch), trainer.teachers.target(batch), batch)
    return {name: float(loss.mean()) for name, loss in losses.items()}


def test_either_start_is_nearer_to_the_teacher_than_chance(content: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(content)
    random, channels, fitted = (
        first_losses(general(recipe, start=start), tmp_path) for start in ("random", "channels", "least_squares")
    )
    assert channels["embedding_loss"] < 0.8 * random["embedding_loss"]
    for name, loss in fitted.items():
        assert loss < 0.8 * min(random[name], channels[name]), name


@pytest.mark.parametrize("projection", ["per_layer", "shared"])
def test_least_squares_depends_neither_on_forward_passes_nor_on_interruption(
    projection: str, content: dict[str, Any], tmp_path: Path
) -> None:
    config = general(recipe_of(content), start="least_squares", projection=projection)
    found = [
        {name: linear.weight.detach().clone() for name, linear in maps_of(trainer).items()}
        for budget in (8192, 40)
        for trainer in [make_trainer(config, plain_ports(tmp_path, microbatch_tokens=budget))]
    ]
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())
    whole = run_stage(config, None, plain_ports(tmp_path / "whole")).checkpoint
    states = MemoryStates()
    with pytest.raises(Interrupted):
        run_stage(config, None, plain_ports(tmp_path / "cut", states=states, stop_requested=lambda: True))
    resumed = run_stage(config, None, plain_ports(tmp_path / "cut", states=states)).checkpoint
    assert kept(whole).keys() == kept(resumed).keys()
    assert all(torch.equal(tensor, kept(resumed)[name]) for name, tensor in kept(whole).items())


def test_every_teacher_and_masked_words_are_fitted(content: dict[str, Any], tmp_path: Path) -> None:
    toy_teacher(tmp_path / "other")
    changed = deepcopy(content)
    changed["teacher"]["others"] = [
        {"model": str(tmp_path / "other"), "task_model": content["teacher"]["task_model"]},
    ]
    config = general(Recipe.model_validate(changed), start="least_squares")
    trainer = make_trainer(config, plain_ports(tmp_path / "1"))
    weights = [linear.weight for _, _, linear in trainer.objective.fresh]
    assert len(weights) == 6
    for mine, theirs in zip(weights[:3], weights[3:], strict=True):
        assert torch.equal(mine, theirs), "both teachers are the same model"
    words = MaskedLanguageObjective.model_validate(
        {"soft_label": None, "latent": {"terms": [HIDDEN], "projection_start": "least_squares"}}
    )
    config = general(recipe_of(content)).model_copy(update={"objective": words})
    masked = make_trainer(config, plain_ports(tmp_path / "2"))
    plain = make_trainer(general(recipe_of(content), HIDDEN, start="least_squares"), plain_ports(tmp_path / "3"))
    one, other = (maps_of(trainer)["hidden_0"].weight.detach() for trainer in (masked, plain))
    assert not torch.equal(one, other), "masked words are read, as in training"
    assert float((one - other).norm() / other.norm()) < 1
