"""All four stages through the flow, against a real Prefect server and a real MLflow store."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import torch
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from pipeline import launch
from pipeline.flow import RunOptions, distill_flow
from pipeline.recipes.shipped import read_recipe
from pipeline.reporting.run_table import control_row, student_row
from pipeline.reporting.shipping_table import shipping_lines
from pipeline.shipping import kept
from pipeline.store.checkpoints import open_checkpoint, open_store, verify
from schemas.core.errors import ConfigError
from schemas.recipe.expand import TaskTeachers, stage_config
from schemas.results.manifest import BEFORE, RunReport
from stages.ports.plain import plain_ports
from stages.run import run_stage
from stages.versions import installed_versions
from tests.support.command_line import ToyRun
from tests.support.toys import toy_rows

STAGES = ("general", "general_enhanced", "task_adaptive", "task_specific")
pytestmark = pytest.mark.usefixtures("prefect")


def checkpoint(report: RunReport, name: str) -> Path:
    row = next(row for row in report.rows if row.name == name)
    assert row.checkpoint is not None
    return Path(row.checkpoint.path)


def client_of(run: ToyRun) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{run.store}/mlflow.db")


def test_the_table_has_a_row_for_the_teacher_each_stage_and_each_baseline(toy_run: ToyRun) -> None:
    names = [row.name for row in toy_run.report.rows]
    assert names == ["teacher", BEFORE, *STAGES, "hard_label_baseline", "bag_of_words"]
    assert all(row.status == "ran" for row in toy_run.report.rows)
    assert toy_run.report.rows[1].judgement.probe_accuracy is not None
    assert toy_run.report.rows[1].checkpoint is None
    for row in toy_run.report.rows[2:6]:
        assert row.judgement.probe_accuracy is not None
        assert row.judgement.latent_loss is not None
    accuracy = toy_run.report.rows[0].judgement.accuracy
    assert accuracy is not None
    assert accuracy > 0.9
    assert toy_run.report.retained is not None
    assert toy_run.report.size is not None


def test_the_student_is_compared_with_hard_labels_alone_on_the_same_rows(toy_run: ToyRun) -> None:
    student, control = student_row(toy_run.report), control_row(toy_run.report)
    difference = toy_run.report.minus_control
    assert student is not None
    assert control is not None
    assert difference is not None
    assert student.judgement.accuracy is not None
    assert control.judgement.accuracy is not None
    assert difference.value == student.judgement.accuracy - control.judgement.accuracy
    assert difference.low <= difference.value <= difference.high


def test_the_baseline_trains_on_as_many_tokens_as_the_stages(toy_run: ToyRun) -> None:
    stages = sum(row.tokens or 0 for row in toy_run.report.rows if row.kind == "stage")
    baseline = next(row.tokens for row in toy_run.report.rows if row.name == "hard_label_baseline")
    assert baseline is not None
    assert stages <= baseline < 1.2 * stages


def test_checkpoints_chain_and_open_in_transformers(toy_run: ToyRun) -> None:
    parent = None
    for name in STAGES:
        folder = checkpoint(toy_run.report, name)
        manifest = verify(folder)
        assert manifest.stage == name
        assert manifest.parent_digest == parent
        assert manifest.versions == installed_versions()
        assert datetime.fromisoformat(manifest.created).utcoffset() == timedelta(0)
        parent = manifest.digest
        model = AutoModel.from_pretrained(folder / "model")
        assert model.config.num_hidden_layers == 2
        assert len(AutoTokenizer.from_pretrained(folder / "model")("good film")["input_ids"]) == 4
        assert (folder / "projections.safetensors").is_file()
    final = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert final.config.id2label == {0: "bad", 1: "good"}


def test_latent_loss_falls_from_stage_to_stage(toy_run: ToyRun) -> None:
    losses = [row.judgement.latent_loss for row in toy_run.report.rows if row.name in STAGES]
    assert losses == sorted(losses, reverse=True)


def test_mlflow_holds_one_parent_and_a_comparable_child_per_stage(toy_run: ToyRun) -> None:
    client = client_of(toy_run)
    experiment = client.get_experiment_by_name("distill-flow")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parent = toy_run.report.mlflow_run_id
    children = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent and run.data.tags.get("distill.stage") in STAGES
    ]
    assert sorted(run.info.run_name for run in children) == sorted(STAGES)
    shared_names = set.intersection(*(set(run.data.metrics) for run in children))
    assert {
        "train/attention_loss",
        "train/hidden_loss",
        "train/embedding_loss",
        "train/loss",
        "train/tokens_per_second",
        "eval/probe_accuracy",
        "eval/latent_loss",
    } <= shared_names
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.inputs.dataset_inputs[0].dataset.digest
        assert run.data.params["training.duration"] == "4 steps"
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "manifest.json", "curves.png"} <= artifacts
    history = client.get_metric_history(children[0].info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]
    assert {item.path for item in client.list_artifacts(parent)} >= {"report.md", "report.json", "stages.png"}


def test_the_final_model_loads_as_an_mlflow_model_with_the_same_answers(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy_run.store}/mlflow.db")
    row = next(row for row in toy_run.report.rows if row.name == "task_specific")
    client = client_of(toy_run)
    (output,) = client.get_run(row.mlflow_run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.status, model.source_run_id) == ("task_specific", "READY", row.mlflow_run_id)
    assert model.tags["distill.digest"] == row.checkpoint.digest
    assert model.params["student.shape.num_layers"] == "2"
    scores = {metric.key: metric.value for metric in model.metrics}
    assert scores["eval/accuracy"] == row.judgement.accuracy
    assert [len(client.get_metric_history(row.mlflow_run_id, name)) for name in scores] == [1] * len(scores)
    info = mlflow.models.get_model_info(f"models:/{model.model_id}")
    assert info.model_id == model.model_id
    assert (
        mlflow.models.Model.load(f"models:/{model.model_id}").load_input_example() == toy_rows(60, seed=2)[0]["text_a"]
    )
    pipe = mlflow.transformers.load_model(f"runs:/{row.mlflow_run_id}/task_specific")
    student = AutoModelForSequenceClassification.from_pretrained(checkpoint(toy_run.report, "task_specific") / "model")
    inputs = pipe.tokenizer(["good film", "a dull plot"], return_tensors="pt", padding=True)
    with torch.no_grad():
        torch.testing.assert_close(pipe.model(**inputs).logits, student(**inputs).logits)


async def _artifacts(key: str) -> list[object]:
    async with get_client() as client:
        return list(await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))))


def test_prefect_holds_the_results_table_and_readable_task_names(toy_run: ToyRun) -> None:
    import asyncio

    names = {"teacher", *STAGES, "hard_label_baseline", "bag_of_words"}

    async def task_names() -> set[str]:
        wanted = TaskRunFilter(name=TaskRunFilterName(any_=list(names)))
        async with get_client() as client:
            return {run.name for run in await client.read_task_runs(task_run_filter=wanted)}

    tables = asyncio.run(_artifacts("toy-stages"))
    # The server also holds other tests' runs of the toy recipe, some of them of its first stages only.
    assert any("task_specific" in str(table) for table in tables)
    assert asyncio.run(task_names()) == names


def test_a_second_run_does_nothing_and_prefects_page_says_so(toy_run: ToyRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in (toy_run.store / "checkpoints").rglob("*")}
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        state = distill_flow(
            recipe=str(toy_run.recipe), options=RunOptions(store=str(toy_run.store)), return_state=True
        )
        APILogHandler().flush()
    again = state.result()
    _check_page(state.state_details.flow_run_id)
    trained = [row for row in again.rows if row.checkpoint]
    assert len(trained) == 6
    assert all(row.status == "reused" for row in trained)
    assert [row.judgement for row in again.rows] == [row.judgement for row in toy_run.report.rows]
    assert {path: path.stat().st_mtime_ns for path in (toy_run.store / "checkpoints").rglob("*")} == before
    child = client_of(toy_run).get_run(again.rows[2].mlflow_run_id)
    assert child.data.tags["distill.reused"] == "true"
    assert child.data.tags["mlflow.parentRunId"] == again.mlflow_run_id
    assert child.data.metrics["eval/probe_accuracy"] == again.rows[2].judgement.probe_accuracy


def test_a_run_that_trains_nothing_starts_no_server_asks_no_model_and_measures_nothing(
    toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(launch, "TemporaryServer", start)
    monkeypatch.setattr(kept, "machine_is_busy", lambda: True)  # or times of a busy machine are measured again
    asked: list[str] = []

    def note(module: torch.nn.Module, _: object) -> None:
        # The preflight checks probe a model without weights.
        if any(parameter.device.type != "meta" for parameter in module.parameters()):
            asked.append(type(module).__name__)

    options = dict.fromkeys(RunOptions.model_fields) | {"store": str(toy_run.store)}
    with temporary_settings(restore_defaults={PREFECT_API_URL}), register_module_forward_pre_hook(note):
        report = launch.run_recipes([str(toy_run.recipe)], [], options)
        with pytest.raises(AssertionError, match="a server was started"):
            launch.run_recipes([str(toy_run.recipe)], ["stages.general.training.seed=7"], options)
    assert asked == []
    assert isinstance(report, RunReport)
    assert [row.judgement for row in report.rows] == [row.judgement for row in toy_run.report.rows]
    assert report.teachers == toy_run.report.teachers
    assert report.shipping is not None
    assert toy_run.report.shipping is not None
    assert report.shipping.is_kept
    assert report.shipping.python == toy_run.report.shipping.python
    assert "; measured by an earlier run" in shipping_lines(report.shipping, report.run)[0]


def _check_page(run: UUID) -> None:
    """Check names, states, arrows, lines and artifacts of a run that found everything in the store."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run).name == "toy on task"
        tasks = {task.name: task for task in client.read_task_runs(flow_run_filter=of_run)}
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200)
        artifacts = {one.key: one for one in client.read_artifacts(flow_run_filter=of_run)}
    reused = ("teacher", *STAGES, "hard_label_baseline")
    assert {name for name, task in tasks.items() if task.state_name == "Reused"} == set(reused)
    assert set(tasks) - set(reused) == {"bag_of_words", "shipping"}
    names = {task.id: name for name, task in tasks.items()}
    arrows = {name: {names[one.id] for one in task.task_inputs.get("wait_for", [])} for name, task in tasks.items()}
    assert arrows == {
        "teacher": set(),
        "general": set(),
        "general_enhanced": {"teacher", "general"},
        "task_adaptive": {"teacher", "general_enhanced"},
        "task_specific": {"teacher", "task_adaptive"},
        "hard_label_baseline": set(),
        "bag_of_words": set(),
        "shipping": {"teacher", "task_specific"},
    }
    lines = {log.message: log.task_run_id for log in logs}
    assert lines["toy: checking models and data"] is None
    assert lines["general: judging"] == tasks["general"].id
    (line,) = [line for line in lines if line.startswith("general: found in the store, reused")]
    assert "; probe " in line
    assert artifacts["toy-general"].description == line
    assert artifacts["toy-general"].data == 100.0
    assert {"toy-stages", "toy-result", "toy-picture", "toy-bag-of-words"} <= set(artifacts)
    assert str(artifacts["toy-picture"].data).startswith("data:image/png;base64,")


def test_a_changed_last_stage_reuses_all_earlier_stages(toy_run: ToyRun, capfd: pytest.CaptureFixture[str]) -> None:
    changed = distill_flow(
        recipe=str(toy_run.recipe),
        overrides=["stages.task_specific.training.duration=5 steps", "baselines=[]"],
        options=RunOptions(store=str(toy_run.store)),
    )
    assert [row.status for row in changed.rows] == ["reused", "ran", *["reused"] * 3, "ran"]
    output = capfd.readouterr().err
    assert output.index("training.duration") < output.index("found in the store, reused")
    assert output.count(": to run, unlike ") == 1


def test_from_and_until_select_stages(toy_run: ToyRun, tmp_path: Path) -> None:
    options = RunOptions(store=str(toy_run.store), from_stage="task_adaptive", until_stage="task_adaptive")
    report = distill_flow(recipe=str(toy_run.recipe), options=options)
    assert [row.name for row in report.rows if row.kind == "stage"] == [BEFORE, *STAGES[:3]]
    with pytest.raises(ConfigError, match="stages general, general_enhanced of this recipe, which come before it"):
        distill_flow(recipe=str(toy_run.recipe), options=options.model_copy(update={"store": str(tmp_path / "empty")}))
    assert not list((tmp_path / "empty" / "checkpoints").iterdir())
    with pytest.raises(ConfigError, match="comes after"):
        distill_flow(recipe=str(toy_run.recipe), options=RunOptions(from_stage="task_specific", until_stage="general"))


@pytest.mark.parametrize("by", ["folder", "mlflow"])
def test_a_run_continues_from_an_intermediate_checkpoint(toy_run: ToyRun, by: str) -> None:
    row = next(row for row in toy_run.report.rows if row.name == "general_enhanced")
    assert row.checkpoint is not None
    source = row.checkpoint.path if by == "folder" else f"mlflow:{row.mlflow_run_id}"
    report = distill_flow(
        recipe=str(toy_run.recipe),
        overrides=["baselines=[]"],
        options=RunOptions(store=str(toy_run.store), resume_from=source),
    )
    stages = [row for row in report.rows if row.kind == "stage"]
    assert [row.name for row in stages] == ["task_adaptive", "task_specific"]
    # Equal stages with the same parent have the same digest.
    assert all(row.status == "reused" for row in stages)
    _, manifest = open_checkpoint(stages[0].checkpoint.path)
    assert manifest.parent_digest == row.checkpoint.digest


def test_a_plain_call_gives_the_same_weights_as_the_flow_bit_for_bit(toy_run: ToyRun, tmp_path: Path) -> None:
    recipe = read_recipe(str(toy_run.recipe))
    plain = run_stage(stage_config(recipe, recipe.stages[0], TaskTeachers()), None, plain_ports(tmp_path))
    weights = Path("model") / "model.safetensors"
    assert (Path(plain.checkpoint.path) / weights).read_bytes() == (
        checkpoint(toy_run.report, "general") / weights
    ).read_bytes()
    assert plain.checkpoint.digest == verify(checkpoint(toy_run.report, "general")).digest


def test_a_general_stage_is_shared_by_another_task(toy_run: ToyRun, tmp_path: Path) -> None:
    from tests.support.toys import write_rows

    rows = [row | {"label": {"bad": "1 star", "good": "5 stars"}[row["label"]]} for row in toy_rows(160, seed=5)]
    file = write_rows(tmp_path / "train.jsonl", rows)
    report = distill_flow(
        recipe=str(toy_run.recipe),
        overrides=[
            f"task.train={file}",
            f"task.validation={file}",
            "baselines=[]",
            "limits.in_train=1",  # the very same rows
        ],
        options=RunOptions(store=str(toy_run.store), until_stage="general_enhanced"),
    )
    assert [row.status for row in report.rows] == ["ran", "ran", "reused", "ran"]


def test_the_store_remembers_every_run(toy_run: ToyRun) -> None:
    store = open_store(toy_run.store)
    assert toy_run.report.run in store.list_reports()
    assert store.read_report(toy_run.report.run) == toy_run.report
