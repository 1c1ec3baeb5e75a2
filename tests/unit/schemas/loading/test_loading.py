"""Any file or override gives a Recipe or a ConfigError with locations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.core.errors import ConfigError
from schemas.loading.load import load_recipe, recipe_names
from tests.support.paths import RECIPES
from tests.support.recipes import SMALL, problems, quickstart

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


# --- finding the file


def test_a_shipped_name_and_its_path_load_the_same_recipe() -> None:
    assert quickstart() == load_recipe(RECIPES / "quickstart.yaml", recipes_folder=None)


def test_a_misspelt_name_gets_a_suggestion_and_the_list() -> None:
    (line,) = problems("quickstat")
    assert line == (
        "'quickstat': neither a file nor a shipped recipe (did you mean quickstart?); "
        f"shipped: {', '.join(sorted(path.stem for path in RECIPES.glob('*.yaml')))}"
    )


def test_a_missing_file_a_folder_and_a_device_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        load_recipe(tmp_path / "gone.yaml", recipes_folder=None)
    assert "is a folder" in problems(tmp_path)[0]
    assert "not a regular file" in problems("/dev/zero")[0]
    with pytest.raises(ConfigError, match=r"null (byte|character)"):
        load_recipe("a\0b", recipes_folder=None)


def test_only_yaml_files_are_recipes(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "notes.txt", "B ad.yaml"):
        (tmp_path / name).write_text("")
    assert recipe_names(tmp_path) == ("a", "b")


# --- invalid files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: a\nname: b\n", r"r\.yaml:2: 'name' is given twice, first in line 1"),
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
def test_a_malformed_file_is_refused_with_its_line(write: Write, content: str | bytes, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(write(content), recipes_folder=None)


def test_an_alias_bomb_is_refused_before_it_fills_the_memory(write: Write) -> None:
    lines = ["a0: &a0 [" + "x, " * 100 + "]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 7)]
    with pytest.raises(ConfigError, match="aliases expand too far"):
        load_recipe(write("\n".join(lines)), recipes_folder=None)


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(write: Write) -> None:
    content = b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode()
    assert load_recipe(write(content), recipes_folder=None).name == "small"


def test_numbers_in_scientific_notation_without_a_dot_are_numbers(write: Write) -> None:
    text = SMALL + "      optimizer: {learning_rate: 3e-4}\n"
    recipe = load_recipe(write(text), recipes_folder=None)
    assert recipe.stages[0].training.optimizer.learning_rate == 3e-4


# --- messages


def test_all_problems_of_file_and_overrides_are_reported_with_path_and_line(write: Write) -> None:
    text = SMALL.replace("num_layers: 2", "num_layers: 0").replace("training:", "trainig:")
    reports = problems(write(text), "execution.log_every=2.5", "stages.genral.x=1", "nonsense")
    assert [line.split(": ", 2)[:2] for line in reports] == [
        ["--set nonsense", "expected KEY=VALUE, such as stages.general.training.seed=1"],
        [f"{write(text)}:6", "student.shape.num_layers"],
        [f"{write(text)}:12", "stages[0].trainig"],
    ]
    assert reports[2].endswith(
        "unknown key (did you mean training?); allowed: training, name, teacher, data, objective"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.shape.num_layers=0", "student.shape.num_layers: 0 is not allowed; it must be at least 1"),
        ("student.shape.num_layers=two", "'two' is not allowed; expected a whole number"),
        (
            "student.start.kind=teacher_layer",
            "'teacher_layer' is unknown (did you mean teacher_layers?); choose random,",
        ),
        (
            "stages[2].training.duration=3 days",
            "stages[2].training.duration.unit: 'days' is not allowed; choose steps, epochs or",
        ),
        ("stages.general.training.duration=soon", "stages[0].training.duration: expected an amount and a unit"),
        ("stages.general.training.batch=4096", "stages[0].training.batch: 4096 is not allowed; expected an amount"),
        ("stages.general.data=task_data", "stages[0].data: 'task_data' is not allowed; choose general_corpus"),
        (
            "stages.general.objective={kind: latent, layer_map: {kind: explicit, layers: [1]}}",
            "stages[0].objective.layer_map.layers: 3 student layers but 1",
        ),
        (
            "stages.general.objective={kind: latent, layer_map: {kind: explicit, layers: [-1]}}",
            "stages[0].objective.layer_map.layers[0]: -1 is not allowed",
        ),
        ("teacher.model.sha256=abc", "teacher.model.sha256: 'abc' is no SHA-256; expected 64 lower-case"),
        ("teacher.minimum_gain=.nan", "teacher.minimum_gain: nan is not allowed; give a finite number"),
        ("baselines=[bag_of_word]", "baselines[0]: 'bag_of_word' is not allowed (did you mean bag_of_words?); choose"),
        ("general_corpus.sources=[]", "general_corpus.sources: [] is not allowed; give at least 1 item"),
        ("general_corpus.sources=[{kind: hub}]", "general_corpus.sources[0].id: is missing (Repository"),
        (
            "stages.general.training.gradient_perturbation=[]",  # described in two lines
            "stages[0].training.gradient_perturbation: [] is not allowed; expected a number (Length",
        ),
        ("general_corpus=null", "general_corpus: stage general reads a general corpus"),
        ("task=nonsense", "task: 'nonsense' is no task; give docstrings, docstring_pairs, a task by name"),
        ("student.shape.num_attention_heads=7", "student.shape: 7 attention heads do not divide"),
        ("name=Upper Case", "name: 'Upper Case' does not have the right form (Short name"),
        ("stages.0=null", "stages[0]: null is not allowed; expected a mapping"),
        ("evaluation=true", "evaluation: true is not allowed; expected a mapping"),
        ("teacher.model={id: a}", "teacher.model.kind: is missing"),
    ],
)
def test_a_wrong_value_is_named_by_its_yaml_path_in_plain_words(override: str, expected: str) -> None:
    reports = problems("quickstart", override)
    assert any(expected in line for line in reports), reports
    assert len(reports) <= 2


def test_long_and_unprintable_values_are_shortened_and_escaped() -> None:
    (line,) = problems("quickstart", 'stages.0.data="' + "x" * 5000 + '"')
    assert len(line) < 300
    (line,) = problems("quickstart", r'stages.0.data="\e[2J\uD800"')
    assert line.isprintable()
    (line,) = problems("quickstart", "task.max_length=" + "9" * 4000)
    assert "a number of 13288 bits is not allowed; it must be at most 8192" in line


def test_the_number_of_reported_problems_is_capped(write: Write) -> None:
    reports = problems(write(SMALL + "".join(f"key{n}: 1\n" for n in range(1000))))
    assert len(reports) == 51
    assert reports[-1].startswith("and more")


def test_a_mistake_in_an_anchor_is_reported_once_with_its_number_of_uses(write: Write) -> None:
    text = SMALL.replace("training:", "training: &training").replace("duration", "duratoin")
    names = ("general_enhanced", "task_adaptive", "task_specific")
    text += "".join(f"  - {{name: {name}, training: *training}}\n" for name in names)
    (unknown,) = (line for line in problems(write(text)) if "unknown key" in line)
    location = "stages[0].training.duratoin and 3 more places"
    assert unknown.startswith(f"{write(text)}:13: {location}: unknown key (did you mean duration?)")
