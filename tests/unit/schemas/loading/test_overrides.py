"""`--set a.b=c` reaches every part of a recipe, or is refused with the reason."""

from __future__ import annotations

import pytest

from schemas.core.errors import ConfigError
from schemas.core.kinds import MultiLabel
from schemas.core.layer_map import ExplicitMap
from schemas.core.refs import HubModel
from schemas.core.training import Duration
from schemas.data.corpus import PairCut
from schemas.data.tasks import DocstringTask, FileTask, HubTask
from schemas.loading.load import load_recipe
from schemas.loading.overrides import parse_overrides
from schemas.recipe.objective import LatentObjective, TaskObjective
from schemas.recipe.recipe import Recipe
from tests.support.paths import RECIPES
from tests.support.recipes import problems, quickstart


def test_an_override_reaches_list_items_by_number_name_and_kind() -> None:
    recipe = quickstart(
        'stages.general.training.duration="500 steps"',
        "stages.1.training.seed=7",
        "stages[2].training.seed=8",
        "stages.task_specific.objective.latent.terms.attention.weight=2",
    )
    assert recipe.stages[0].training.duration == Duration(amount=500, unit="steps")
    assert [stage.training.seed for stage in recipe.stages] == [0, 7, 8, 0]
    objective = recipe.stages[3].objective
    before = quickstart().stages[3].objective
    assert isinstance(objective, TaskObjective)
    assert isinstance(before, TaskObjective)
    assert objective.latent is not None
    assert before.latent is not None
    others = [term.weight for term in before.latent.terms[1:]]
    assert [term.weight for term in objective.latent.terms] == [2.0, *others]


def test_setting_a_parent_replaces_it_as_a_whole() -> None:
    recipe = quickstart("task={kind: docstrings}", "teacher.model=google-bert/bert-base-uncased")
    assert recipe.task == DocstringTask()
    assert recipe.teacher.model == HubModel(id="google-bert/bert-base-uncased")


def tinybert(*overrides: str) -> HubTask:
    task = load_recipe("tinybert", overrides, recipes_folder=RECIPES).task
    assert isinstance(task, HubTask)
    return task


def test_naming_the_current_task_changes_nothing() -> None:
    assert quickstart("task=docstring_pairs") == quickstart()
    assert tinybert("task=glue/sst2") == tinybert()
    changed = tinybert("task.metric=f1", "task.labels=[bad, good]")
    assert tinybert("task.metric=f1", "task.labels=[bad, good]", "task=sst2") == changed


def test_another_data_set_of_the_same_kind_inherits_length_row_limit_and_seed() -> None:
    before = ("task.max_train_rows=500", "task.seed=7", "task.metric=f1", "task.label=gold")
    assert tinybert(*before, "task=rte") == HubTask(
        id="nyu-mll/glue",
        config="rte",
        text="sentence1",
        text_pair="sentence2",
        labels=("entailment", "not_entailment"),
        max_length=64,
        max_train_rows=500,
        seed=7,
    )
    recipe = quickstart("task=./a", "task.label=gold", "task.max_train_rows=9", "task=./b/")
    assert recipe.task == FileTask(
        train="./b/train.*", validation="./b/validation.*", text_pair="auto", max_length=64, max_train_rows=9
    )


def test_a_task_of_another_kind_inherits_only_the_length() -> None:
    recipe = quickstart("task.seed=3", "task=glue/sst2")
    assert recipe.task == HubTask(id="nyu-mll/glue", config="sst2", labels=("negative", "positive"), max_length=64)


def test_mistakes_in_an_override_of_one_task_are_attributed_to_the_override() -> None:
    def several(*overrides: str) -> Recipe:
        both = "teacher.multi_task={tasks: {a: glue/cola, b: sst2}, training: {duration: 1 epoch}}"
        return quickstart(both, *overrides)

    recipe = several("teacher.multi_task.tasks.a.max_length=32")
    assert recipe.teacher.multi_task is not None
    assert recipe.teacher.multi_task.tasks["a"].max_length == 32
    assert recipe.teacher.multi_task.tasks["b"].max_length == 128
    for change, location in (
        ("max_length=1", "teacher.multi_task.tasks.a.max_length: 1 is not allowed"),
        ("max_lengt=32", "teacher.multi_task.tasks.a.max_lengt: unknown key (did you mean max_length?)"),
    ):
        with pytest.raises(ConfigError) as refused:
            several(f"teacher.multi_task.tasks.a.{change}")
        (line,) = refused.value.problems
        assert line.startswith(f"--set teacher.multi_task.tasks.a.{change}: {location}")


def test_an_inherited_mistake_is_attributed_to_its_source() -> None:
    (line,) = problems("quickstart", "task.max_length=1", "task=sst2")
    assert line.startswith("--set task.max_length=1: task.max_length: 1 is not allowed")
    assert "nonsense" in problems("quickstart", "task=nonsense")[0]


def test_setting_a_key_below_a_short_form_expands_it() -> None:
    recipe = quickstart("task=sst2", "task.max_length=64", "stages.0.training.duration.amount=5")
    assert isinstance(recipe.task, HubTask)
    assert recipe.task.max_length == 64
    assert recipe.stages[0].training.duration == Duration(amount=5, unit="tokens")
    recipe = quickstart("general_corpus.cut=pairs", "general_corpus.cut.short_probability=0")
    assert recipe.general_corpus is not None
    assert recipe.general_corpus.cut == PairCut(short_probability=0)
    task = tinybert("task.problem=multi_label", "task.problem.separator=;")
    assert task.problem == MultiLabel(separator=";")


def test_defaults_and_nulls_can_be_overridden_below() -> None:
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


def test_null_removes_a_part() -> None:
    recipe = load_recipe(
        "tinybert",
        ["stages=[{name: task_specific, training: {duration: 1 epoch}}]", "general_corpus=null", "augmentation=null"],
        recipes_folder=RECIPES,
    )
    assert recipe.general_corpus is None
    assert recipe.augmentation is None
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
        ("name={a: 1, a: 2}", "is given twice"),
        ("stages.9.training.seed=1", "stages has 4 items, numbered from 0; there is no 9"),
        ("stages.-1.training.seed=1", "stages has no item '-1'"),
        ("name.a=1", "name is 'quickstart' and has no keys"),
        ("stages.general.training.durations=1 step", "unknown key (did you mean duration?)"),
        ("stage.general.training.duration=1 step", "stage: unknown key (did you mean stages?)"),
    ],
)
def test_an_unusable_override_is_quoted(override: str, expected: str) -> None:
    reports = problems("quickstart", override)
    assert len(reports) == 1
    assert reports[0].startswith(f"--set {override}: ")
    assert expected in reports[0]


def test_an_override_does_not_change_other_uses_of_an_alias() -> None:
    recipe = load_recipe("tinybert", ["stages.general.objective.terms.attention.weight=5"], recipes_folder=RECIPES)
    first, second = (stage.objective for stage in recipe.stages[:2])
    assert isinstance(first, LatentObjective)
    assert isinstance(second, LatentObjective)
    assert first.terms[0].weight == 5
    assert second.terms[0].weight == 1


def test_all_malformed_overrides_are_reported_together() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_overrides(["a=1", "b", "c=[", "d=2"])
    assert len(refused.value.problems) == 2
    parsed = parse_overrides(["a.b=3e-4", "c=null", "d='1'"])
    assert [(override.segments, override.value) for override in parsed] == [
        (("a", "b"), 3e-4),
        (("c",), None),
        (("d",), "1"),
    ]
