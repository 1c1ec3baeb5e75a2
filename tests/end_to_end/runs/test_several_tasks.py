"""Several tasks in one run: shared stages run once, and a failing task does not stop the others."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, TaskRunFilter, TaskRunFilterName

from pipeline.execution import stage_training
from pipeline.flow import RunOptions, distill_flow
from pipeline.store.checkpoints import CheckpointStore, open_store
from schemas.core.errors import ConfigError, Interrupted
from schemas.results.report import GroupReport, RunsFailed
from tests.support.command_line import Distill
from tests.support.toys import toy_recipe_dict, toy_rows, write_rows

pytestmark = pytest.mark.usefixtures("prefect")


@dataclass(frozen=True)
class World:
    """A store and a recipe of two stages with two tasks, the first of which has invalid labels."""

    recipe: Path
    tasks: list[str]
    store: CheckpointStore

    def run(self, *overrides: str, tasks: list[str] | None = None, until: str | None = None) -> GroupReport:
        """Run the flow on several tasks."""
        options = {"store": str(self.store.root), "until_stage": until}
        report = distill_flow(
            recipe=str(self.recipe),
            tasks=self.tasks if tasks is None else tasks,
            overrides=list(overrides),
            options=RunOptions.model_validate(options),
        )
        assert isinstance(report, GroupReport)
        return report


def write_task(folder: Path, classes: tuple[str, str], *, wrong: float = 0.0) -> str:
    draw = random.Random(0)
    for split, number, seed in (("train", 160, 1), ("validation", 60, 2)):
        rows = [
            row | {"label": classes[(row["label"] == "good") ^ (draw.random() < wrong)]}
            for row in toy_rows(number, seed=seed)
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("several tasks")
    content = toy_recipe_dict(folder / "in")
    content["stages"] = [content["stages"][0], content["stages"][-1]]
    content["teacher"]["task_model"]["training"]["duration"] = "100 steps"
    content["teacher"]["minimum_gain"] = 0.9
    recipe = folder / "toy.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    tasks = [write_task(folder / "noise", ("no", "yes"), wrong=0.15), write_task(folder / "plays", ("dull", "great"))]
    return World(recipe, tasks, open_store(folder / "store"))


@dataclass(frozen=True)
class FirstRun:
    """Output and report of a run that could not finish one of its tasks."""

    error: str
    report: GroupReport


@pytest.fixture(scope="module")
def first(world: World) -> FirstRun:
    with pytest.raises(RunsFailed) as failed:
        world.run()
    report = world.store.read_report()
    assert isinstance(report, GroupReport)
    return FirstRun(str(failed.value), report)


def test_a_failed_task_is_named_and_the_others_are_finished(world: World, first: FirstRun) -> None:
    assert first.error.startswith("task noise: the fine-tuned teacher scores ")
    assert first.error.count("\n") == 0
    report = first.report
    assert list(report.tasks) == ["plays"]
    assert first.error == f"task noise: {report.failed['noise']}"
    for name, result in report.tasks.items():
        assert result.run == f"{report.run}-{name}"
        assert world.store.read_report(result.run) == result
        assert [row.name for row in result.rows] == ["teacher", "before", "general", "task_specific"]
        assert [row.status for row in result.rows] == ["ran", "ran", "reused", "ran"]
        assert result.retained is not None
    assert [(row.name, row.status) for row in report.shared] == [("general", "ran")]
    # The shared stage is judged for each task, so that the tasks' tables have no holes.
    probes = [task.rows[2].judgement.probe_accuracy for task in report.tasks.values()]
    assert None not in probes
    assert report.shared[0].judgement.probe_accuracy is None


def test_mlflow_holds_the_shared_stage_and_a_run_for_each_task_under_one(world: World, first: FirstRun) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{world.store.root}/mlflow.db")
    under: dict[str | None, dict[str, str]] = {}
    runs = client.search_runs([first.report.mlflow_experiment_id], max_results=100)
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId")
        under.setdefault(parent, {})[run.info.run_name] = run.info.run_id
    tasks = under[first.report.mlflow_run_id]
    assert set(tasks) == {"general", "noise", "plays"}
    assert client.get_run(first.report.mlflow_run_id).info.status == "FAILED"
    stages = {"plays/teacher", "before", "plays/general (reused)", "plays/task_specific"}
    assert set(under[tasks["plays"]]) == stages
    student = client.get_run(under[tasks["plays"]]["plays/task_specific"])
    assert student.data.tags["distill.task"] == "plays"
    assert {"train/loss", "eval/accuracy", "eval/probe_accuracy"} <= set(student.data.metrics)
    assert first.report.tasks["plays"].mlflow_run_id == tasks["plays"]
    assert client.get_run(tasks["noise"]).info.status == "FAILED"
    written = {item.path for item in client.list_artifacts(first.report.mlflow_run_id)}
    assert {"report.md", "report.json", "tasks.png"} <= written


def test_prefect_holds_a_run_for_each_task_and_the_table_that_compares_them(first: FirstRun) -> None:
    names = {"plays", "noise", "noise/teacher", "plays/task_specific"}

    async def names_and_tables() -> tuple[set[str], list[str]]:
        of_tasks = TaskRunFilter(name=TaskRunFilterName(any_=list(names)))
        of_tables = ArtifactFilter(key=ArtifactFilterKey(any_=["toy-tasks"]))
        async with get_client() as client:
            runs = await client.read_task_runs(task_run_filter=of_tasks)
            tables = await client.read_artifacts(artifact_filter=of_tables)
        return {run.name for run in runs}, [str(table.data) for table in tables]

    # The server stores task runs from a queue of events, after the run has ended.
    deadline = time.monotonic() + 60
    while (stored := asyncio.run(names_and_tables()))[0] != names and time.monotonic() < deadline:
        time.sleep(0.5)
    assert stored[0] == names
    tables = stored[1]
    assert any("plays" in table and "failed" in table for table in tables)


def test_plan_shows_shared_stages_once_and_the_remaining_stages_of_each_task(
    world: World, first: FirstRun, distill: Distill
) -> None:
    several = ("--set", f"tasks={json.dumps(world.tasks)}", "--store", world.store.root)
    code, out, err = distill("plan", world.recipe, *several, "--json")
    assert code == 0, err
    stages = {(stage["task"], stage["name"]): stage for stage in json.loads(out)["stages"]}
    there = {key for key, stage in stages.items() if stage["status"] == "reuse"}
    assert set(stages) - there == {("noise", "task_specific")}
    assert [task for task, name in stages if name == "general"] == [None]
    for name, report in first.report.tasks.items():
        student = report.rows[-1].checkpoint
        assert student is not None
        assert stages[name, "task_specific"]["digest"] == student.digest
    code, out, _ = distill("plan", world.recipe, *several)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "reused" in line][:3] == [
        "general",
        "noise/teacher",
        "plays/teacher",
    ]


def test_a_run_of_one_task_would_reuse_the_stages_of_a_run_of_several(
    world: World, first: FirstRun, distill: Distill
) -> None:
    arguments = ("--set", f"task={world.tasks[1]}", "--store", world.store.root, "--json")
    code, out, err = distill("plan", world.recipe, *arguments)
    assert code == 0, err
    stages = json.loads(out)["stages"]
    assert [stage["status"] for stage in stages] == ["reuse"] * 3
    rows = first.report.tasks["plays"].rows
    assert [stage["digest"] for stage in stages] == [row.checkpoint.digest for row in rows if row.checkpoint]


def test_compare_prints_the_tasks_together_and_separately(world: World, first: FirstRun, distill: Distill) -> None:
    code, out, _ = distill("compare", first.report.run, "--store", world.store.root)
    assert code == 0
    for words in ("toy on 2 tasks", "noise  failed", f"distill compare {first.report.run}-plays"):
        assert words in out
    code, out, _ = distill("compare", f"{first.report.run}-plays", "--store", world.store.root)
    assert code == 0
    assert "toy on plays" in out
    code, out, _ = distill("compare", first.report.run, "--store", world.store.root, "--json")
    assert GroupReport.model_validate_json(out) == first.report


@pytest.fixture
def stopped_in_the_last_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send this process SIGTERM after the first step of the next `task_specific` stage."""
    train = stage_training.run_stage

    def stop_first(config, parent, ports, *more):  # type: ignore[no-untyped-def]
        if config.name == "task_specific":
            advance = ports.progress.advance

            def stop(done, metrics):  # type: ignore[no-untyped-def]
                monkeypatch.setattr(ports.progress, "advance", advance)
                os.kill(os.getpid(), signal.SIGTERM)
                advance(done, metrics)

            monkeypatch.setattr(stage_training, "run_stage", train)
            monkeypatch.setattr(ports.progress, "advance", stop)
        return train(config, parent, ports, *more)

    monkeypatch.setattr(stage_training, "run_stage", stop_first)
    return


def test_a_stopped_run_starts_no_further_task_and_can_be_resumed(
    world: World, first: FirstRun, stopped_in_the_last_stage: None, capfd: pytest.CaptureFixture[str]
) -> None:
    mended = "teacher.minimum_gain=0"
    # On a machine too busy to unwind within seconds the run is interrupted after the state was saved.
    stopped = r"noise: stopped at step 2 of 4 .* plays: not begun|stopped during recipe toy"
    with pytest.raises(Interrupted, match=stopped):
        world.run(mended)
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("noise: teacher") for line in lines)
    assert not any(line.startswith(("plays/", "plays: teacher", "plays: general")) for line in lines)
    report = world.run(mended, tasks=world.tasks[:1])
    assert "noise: task_specific: continuing from step 2 of 4" in capfd.readouterr().err
    (noise,) = report.tasks.values()
    assert [row.status for row in noise.rows] == ["reused", "ran", "reused", "ran"]


def test_mistakes_of_all_tasks_are_reported_at_once_and_shared_ones_once(
    world: World, distill: Distill, tmp_path: Path
) -> None:
    bad = Path(write_task(tmp_path / "worse", ("a", "b")))
    write_rows(bad / "train.jsonl", [{"text_a": "good film"}])
    several = ("--set", f"tasks={json.dumps([world.tasks[1], str(bad), f'{tmp_path}/gone'])}")
    arguments = ("run", world.recipe, "--store", tmp_path / "store", *several)
    message = distill.refused(*arguments)
    assert message.count("error:") == 2
    assert "error: task worse: " in message
    assert "error: task gone: task.train: there is no file" in message
    # Models are checked once the rows of every task can be read.
    fine = (*arguments[:-1], f"tasks={json.dumps(world.tasks)}")
    message = distill.refused(*fine, "--set", "student.shape.num_attention_heads=4")
    assert message.count("error:") == message.count("the student has 4 heads and the teacher 2")
    assert "task plays" not in message
    assert not list((tmp_path / "store" / "checkpoints").iterdir())


def test_a_later_stage_is_refused_with_the_task_that_lacks_earlier_stages(
    world: World, first: FirstRun, distill: Distill, tmp_path: Path
) -> None:
    several = ("--set", f"tasks={json.dumps(world.tasks)}", "--from", "task_specific")
    message = distill.refused("run", world.recipe, "--store", tmp_path / "store", *several)
    assert "stage general of this recipe, which comes before it, is not in the store" in message
    student = first.report.tasks["plays"].rows[-1].checkpoint
    assert student is not None
    arguments = ("--store", tmp_path / "store", "--resume-from", student.path)
    message = distill.refused("run", world.recipe, *several[:2], *arguments)
    assert "a task_specific checkpoint knows one task already, so 2 tasks cannot continue from it" in message


def test_one_task_and_several_together_are_refused_by_the_flow(world: World) -> None:
    with pytest.raises(ConfigError, match="a run has one task or several"):
        distill_flow(recipe=str(world.recipe), task="docstrings", tasks=world.tasks)


def test_a_recipe_with_several_tasks_cannot_be_a_teacher(world: World, distill: Distill) -> None:
    listed = yaml.safe_load(world.recipe.read_text(encoding="utf-8"))
    del listed["task"]
    path = world.recipe.with_name("other.yaml")
    path.write_text(yaml.safe_dump(listed | {"name": "other", "tasks": world.tasks}), "utf-8")
    of = f"teacher.model={{kind: student_of, recipe: '{path}'}}"
    message = distill.refused("plan", world.recipe, "--set", of)
    assert "recipe other has several tasks (noise, plays) and therefore several students" in message
