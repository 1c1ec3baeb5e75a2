"""Several tasks in a recipe: their names, inherited settings, shared stages, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.execution.one_task import stages_after
from pipeline.planning.options import RunOptions
from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel
from schemas.data.tasks import FileTask, HubTask
from schemas.loading.dump import dump_recipe, recipe_schema
from schemas.loading.load import load_recipe
from schemas.recipe.expand import TaskTeachers, task_teachers, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.teacher import FinetunedTeacher
from schemas.results.manifest import CheckpointRef
from tests.support.paths import RECIPES
from tests.support.recipes import problems, recipe


def test_a_list_names_tasks_by_their_last_parts_and_replaces_the_only_task() -> None:
    several = recipe("task.max_length=64", "tasks=[sst2, glue/mrpc, ./my folder/]")
    assert several.task is None
    assert several.tasks is not None
    assert list(several.tasks) == ["sst2", "mrpc", "my-folder"]
    assert [task.max_length for task in several.tasks.values()] == [64, 64, 64]
    folder = several.tasks["my-folder"]
    assert isinstance(folder, FileTask)
    assert folder.train == "./my folder/train.*"


def test_the_recipe_of_one_of_several_tasks_equals_that_of_the_task_alone() -> None:
    changes = ("task.max_length=64", "task.seed=3", "task.max_train_rows=500")
    several = recipe(*changes, "tasks=[sst2, mrpc, cola]")
    for name in ("sst2", "mrpc", "cola"):
        assert several.for_task(name) == recipe(*changes, f"task={name}")


def test_tasks_share_general_stages_whose_teacher_does_not_depend_on_the_task() -> None:
    several = recipe("tasks=[sst2, mrpc]")
    assert [stage.name for stage in several.shared_stages()] == ["general"]
    multi = recipe("tasks=[sst2, mrpc]", name="ernie-tiny-multi-task")
    assert [stage.name for stage in multi.shared_stages()] == ["general", "general_enhanced"]
    assert recipe("tasks=[sst2, mrpc]", name="pkd").shared_stages() == ()
    general = multi.without_tasks()
    assert [config.name for config in teacher_configs(general)] == ["multi_task_teacher"]
    teacher = FinetunedTeacher(model=FolderModel(path="/m"), stage_digest="0" * 64)
    assert task_teachers(general, {"teacher.multi_task": teacher}) == TaskTeachers(multi_task=teacher)


def test_an_override_reaches_one_of_several_tasks_and_adds_another() -> None:
    several = recipe("tasks=[sst2, mrpc]", "tasks.mrpc.max_length=32", "tasks.grammar=cola")
    assert several.tasks is not None
    assert [task.max_length for task in several.tasks.values()] == [128, 32, 128]
    grammar = several.tasks["grammar"]
    assert isinstance(grammar, HubTask)
    assert grammar.config == "cola"


def test_one_task_can_replace_several(tmp_path: Path) -> None:
    path = tmp_path / "several.yaml"
    loaded = recipe("task.max_length=48", "tasks=[sst2, mrpc]", "tasks.mrpc.max_length=32")
    path.write_text(dump_recipe(loaded), encoding="utf-8")
    assert load_recipe(path, recipes_folder=None) == loaded
    for name, length in (("mrpc", 32), ("rte", 48)):
        single = load_recipe(path, [f"task={name}"], recipes_folder=None)
        assert single.tasks is None
        assert single.task is not None
        assert single.task.max_length == length


def test_a_file_may_list_tasks_in_short_and_an_override_reaches_into_them(tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES / "pkd.yaml").read_text(encoding="utf-8"))
    del content["task"]
    path = tmp_path / "listed.yaml"
    path.write_text(yaml.safe_dump(content | {"tasks": ["sst2", "mrpc"]}), encoding="utf-8")
    loaded = load_recipe(path, ["tasks.sst2.max_length=16"], recipes_folder=None)
    assert loaded.tasks is not None
    assert [task.max_length for task in loaded.tasks.values()] == [16, 128]
    assert {"type": "array", "items": {"type": "string"}} in recipe_schema()["properties"]["tasks"]["anyOf"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["tasks=[sst2, nonsense]"], "tasks.nonsense: 'nonsense' is no task"),
        (["tasks=[]"], "tasks: no task is named; give a list"),
        (["tasks=sst2"], "tasks: 'sst2' is no list of tasks; give a list"),
        (["tasks=[sst2, glue/sst2]"], "sst2 is named twice, by 'sst2' and 'glue/sst2'"),
        (["tasks=[{kind: docstrings}]"], "{kind: 'docstrings'} has no name in a list"),
        (["tasks=[./任务]"], "'任务' is no name for a task"),
        (["tasks={a b: sst2}"], "'a b' is no name for a task"),
        (["tasks={a: sst2, b: 7}"], "tasks.b: 7 is not allowed; expected a mapping"),
        (["task=rte", "tasks=[sst2]"], "--set task=rte and --set tasks=[sst2]: a run has one"),
        (["tasks=[sst2]", "task.max_length=8"], "name one, such as --set tasks.s"),
        (["tasks.mrpc.max_length=8"], "the recipe does not have several tasks; name them first"),
        (["tasks=[mrpc]", "tasks.mrp.seed=8"], "no task 'mrp' (did you mean mrpc?); there are: mrpc"),
        (["tasks=[mrpc]", "tasks.mrpc.max_length=1"], "tasks.mrpc.max_length: 1 is not allowed"),
    ],
)
def test_an_invalid_list_of_tasks_is_refused_in_one_line(overrides: list[str], expected: str) -> None:
    (line,) = problems("ernie-tiny", *overrides)
    assert line.startswith("--set ta")
    assert expected in line


def test_an_inherited_mistake_is_attributed_to_its_source(tmp_path: Path) -> None:
    (line,) = problems("ernie-tiny", "task.max_length=1", "tasks=[sst2, rte]")
    location = "tasks.sst2.max_length and 1 more place: "
    assert line.startswith(f"--set task.max_length=1: {location}1 is not allowed")
    text = (RECIPES / "ernie-tiny.yaml").read_text(encoding="utf-8")
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace("max_length: 128", "max_length: 1", 1), encoding="utf-8")
    number = 1 + next(i for i, line in enumerate(path.read_text().split("\n")) if "h: 1" in line)
    first, *_ = problems(path, "tasks=[rte, mrpc]")
    assert first.startswith(f"{path}:{number}: tasks.rte.max_length and 1 more place: 1 is not")


def test_task_beside_tasks_and_tasks_without_a_task_stage_are_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES / "ernie-tiny.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(content | {"tasks": ["rte", "mrpc"]}), encoding="utf-8")
    (line,) = problems(path)
    assert "tasks: a recipe has one task or several; leave out task or tasks" in line
    task = content.pop("task")
    content |= {"tasks": ["rte"], "stages": content["stages"][:1], "baselines": []}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    (line,) = problems(path)
    assert "no stage of this recipe depends on a task" in line
    del content["tasks"]
    path.write_text(yaml.safe_dump(content | {"task": task}), encoding="utf-8")
    (line,) = problems(path, "tasks=[sst2]")
    assert line.startswith("--set tasks=[sst2]: tasks: no stage of this recipe depends on a task")


def test_every_docstring_task_must_exclude_the_same_modules_as_the_corpus() -> None:
    lines = problems("quickstart", "tasks={a: docstrings, b: {kind: docstrings, seed: 5}}")
    assert [line.split("}: ")[1].split(": ")[0] for line in lines] == ["general_corpus.sources[0].seed"]


def test_several_tasks_resume_only_from_a_shared_checkpoint() -> None:
    several = recipe("tasks=[sst2, mrpc]")

    def left(stage: str, of: Recipe = several) -> list[str]:
        checkpoint = CheckpointRef(path="/c", stage=stage, digest="0" * 64)  # type: ignore[arg-type]
        remaining = stages_after(checkpoint, of, list(of.stages), RunOptions())
        return [stage.name for stage in remaining]

    assert left("general") == ["general_enhanced", "task_adaptive", "task_specific"]
    multi = recipe("tasks=[sst2, mrpc]", name="ernie-tiny-multi-task")
    assert left("general_enhanced", multi) == ["task_adaptive", "task_specific"]
    assert left("general", recipe("tasks=[sst2, mrpc]", name="pkd")) == ["task_specific"]
    assert left("general_enhanced", several.for_task("mrpc")) == ["task_adaptive", "task_specific"]
    with pytest.raises(ConfigError, match="a general_enhanced checkpoint knows one task already"):
        left("general_enhanced")
    with pytest.raises(ConfigError, match="it is a teacher checkpoint, not a student's"):
        left("teacher")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train", "is reserved for the training rows"),
        ("Validation", "is reserved for the validation rows"),
        ("unseen", "are not among the training rows"),
        ("hard (2024)", "at most 64 letters"),
        ("a/b", "at most 64 letters"),
        ("..", "at most 64 letters"),
        ("x" * 65, "at most 64 letters"),
        ("", "at most 64 letters"),
        ("ends in a blank ", "at most 64 letters"),
    ],
)
def test_reserved_names_and_names_refused_by_mlflow_are_refused_for_further_rows(name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FileTask(train="a", validation="b", more_validation={name: "c"})
    with pytest.raises(ValidationError, match=message):
        HubTask(id="a/b", more_validation={name: "c"})


@pytest.mark.parametrize("name", ["hard", "mnli_mismatched", "трудные строки", "2024-01.v2", "難"])
def test_names_of_further_rows_may_use_any_script(name: str) -> None:
    assert FileTask(train="a", validation="b", more_validation={name: "c"}).more_validation
