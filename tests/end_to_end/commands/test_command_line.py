"""The command line as seen by a user: output, exit codes and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.recipes.shipped import RECIPES
from tests.support import processes
from tests.support.command_line import Distill, ToyRun
from tests.support.processes import running
from tests.support.toys import toy_recipe_dict, toy_rows, toy_teacher, write_rows


def test_recipes_are_listed_one_per_line(distill: Distill) -> None:
    code, out, _ = distill("recipes", "--json")
    assert code == 0
    listed = [recipe["name"] for recipe in json.loads(out)]
    assert sorted(listed) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert listed[0] == "quickstart", "what runs without a hub comes first"


def test_show_prints_a_recipe_that_loads_again(distill: Distill, tmp_path: Path) -> None:
    _, out, _ = distill("show", "quickstart", "--set", "student.shape.num_layers=2")
    path = tmp_path / "again.yaml"
    path.write_text(out, encoding="utf-8")
    code, again, _ = distill("show", path)
    assert code == 0
    assert again == out
    assert yaml.safe_load(out)["student"]["shape"]["num_layers"] == 2


def test_the_schema_is_a_json_schema(distill: Distill) -> None:
    _, out, _ = distill("schema")
    assert "stages" in json.loads(out)["properties"]


@pytest.mark.usefixtures("prefect")
class TestWithARun:
    """Commands that look at a finished run."""

    def test_plan_shows_stages_in_the_store(self, distill: Distill, toy_run: ToyRun) -> None:
        code, out, err = distill("plan", toy_run.recipe, "--store", toy_run.store, "--json")
        assert code == 0, err
        plan = json.loads(out)
        assert [stage["status"] for stage in plan["stages"]] == ["reuse"] * 5
        assert [stage["digest"] for stage in plan["stages"]] == [
            row.checkpoint.digest for row in toy_run.report.rows[:6] if row.checkpoint
        ]
        assert plan["stages"][1]["steps"] == 4
        assert plan["seconds"] == 0

    def test_plan_shows_the_remaining_stages_of_a_partly_finished_recipe(
        self, distill: Distill, toy_run: ToyRun
    ) -> None:
        change = ("--set", "stages.task_adaptive.training.seed=5")
        arguments = ("plan", toy_run.recipe, "--store", toy_run.store, *change)
        code, out, err = distill(*arguments, "--json")
        assert code == 0, err
        stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
        assert [stage["status"] for stage in stages.values()] == ["reuse"] * 3 + ["run"] * 2
        left = stages["task_adaptive"]["seconds"] + stages["task_specific"]["seconds"]
        assert json.loads(out)["seconds"] == pytest.approx(left)
        assert stages["general"]["reason"] is None
        assert "training.seed is 5 instead of 0" in stages["task_adaptive"]["reason"]
        code, out, _ = distill(*arguments)
        assert "task_specific: to run, unlike task_specific-" in out
        lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        for name in ("teacher", "general", "general_enhanced"):
            assert "reused" in lines[name]
        for name in ("task_adaptive", "task_specific"):
            assert "to run" in lines[name]

    def test_plan_omits_a_teacher_that_no_stage_uses(self, distill: Distill, toy_run: ToyRun) -> None:
        first = yaml.safe_load(toy_run.recipe.read_text(encoding="utf-8"))["stages"][0]
        only = ("--set", f"stages={json.dumps([first])}", "--set", "baselines=[]")
        code, out, err = distill("plan", toy_run.recipe, "--store", toy_run.store, *only, "--json")
        assert code == 0, err
        assert [stage["name"] for stage in json.loads(out)["stages"]] == ["general"]

    def test_compare_prints_the_table(self, distill: Distill, toy_run: ToyRun) -> None:
        code, out, _ = distill("compare", toy_run.report.run, "--store", toy_run.store)
        assert code == 0
        for word in ("general_enhanced", "retained", "parameters", "mlflow ui"):
            assert word in out

    def test_evaluate_scores_student_and_teacher(self, distill: Distill, toy_run: ToyRun) -> None:
        last = toy_run.report.rows[5].checkpoint
        assert last is not None
        folder = toy_run.recipe.parent / "in" / "task"
        mapping = f"{{train: {folder}/train.jsonl, validation: {folder}/validation.jsonl}}"
        for task in (folder, mapping, toy_run.recipe):
            code, out, err = distill("evaluate", last.path, "--task", task, "--store", toy_run.store, "--json")
            assert code == 0, err
            scores = json.loads(out)
            assert [model["name"] for model in scores["models"]] == ["task_specific", "teacher"]
            accuracy = scores["models"][0]["scores"]["accuracy"]
            assert accuracy["value"] == toy_run.report.rows[5].judgement.accuracy
            assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]

    def test_verify_accepts_a_good_checkpoint_and_names_a_damaged_file(
        self, distill: Distill, toy_run: ToyRun, tmp_path: Path
    ) -> None:
        import shutil

        good = toy_run.report.rows[2].checkpoint
        assert good is not None
        assert distill("verify", good.path)[0] == 0
        bad = tmp_path / "bad"
        shutil.copytree(good.path, bad)
        weights = bad / "model" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
        assert "model.safetensors" in distill.refused("verify", bad)

    def test_a_latent_checkpoint_cannot_be_evaluated(self, distill: Distill, toy_run: ToyRun) -> None:
        general = toy_run.report.rows[2].checkpoint
        assert general is not None
        message = distill.refused("evaluate", general.path, "--task", toy_run.recipe.parent / "in" / "task")
        assert "no trained head" in message


@pytest.fixture
def broken(tmp_path: Path, distill: Distill, prefect: str):  # type: ignore[no-untyped-def]
    """Run the toy recipe after a change to its mapping, and return the refusal."""

    def run(change, *arguments: str, code: int = 2) -> str:  # type: ignore[no-untyped-def]
        recipe = toy_recipe_dict(tmp_path / "in")
        change(recipe)
        path = tmp_path / "broken.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        store = () if "--store" in arguments else ("--store", str(tmp_path / "store"))
        return distill.refused("run", path, *store, *arguments, code=code)

    return run


def test_an_unknown_key_is_named_with_its_path(broken) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: recipe["student"]["shape"].update(num_layer=3))
    assert "student.shape.num_layer" in message


def test_every_mistake_is_reported_at_once(broken) -> None:  # type: ignore[no-untyped-def]
    def change(recipe: dict) -> None:
        recipe["student"]["shape"]["hidden_size"] = "wide"
        recipe["stages"][0]["training"]["duration"] = "soon"
        recipe["task"]["metric"] = "luck"

    message = broken(change)
    for key in ("student.shape.hidden_size", "stages[0].training.duration", "task.metric"):
        assert key in message


def test_odd_head_counts_are_refused(broken) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: recipe["student"]["shape"].update(num_attention_heads=3))
    assert "3 attention heads do not divide a hidden_size of 8" in message
    message = broken(lambda recipe: recipe["student"]["shape"].update(num_attention_heads=4))
    assert "the student has 4 heads and the teacher 2" in message


def test_an_impossible_layer_map_is_refused(broken) -> None:  # type: ignore[no-untyped-def]
    def explicit(*layers: int):  # type: ignore[no-untyped-def]
        def change(recipe: dict) -> None:
            objective = {"layer_map": {"kind": "explicit", "layers": list(layers)}}
            recipe["stages"][1]["objective"] = objective

        return change

    assert "2 student layers but 3 teacher layers listed" in broken(explicit(0, 1, 2))
    assert "teacher layer 4 does not exist; the teacher has 4 layers" in broken(explicit(0, 4))


def test_a_stage_out_of_order_is_refused(broken) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: recipe["stages"].reverse())
    assert "stages go from general to specific" in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text_a": "good film"}, "label"),
        ({"text_a": "good film", "label": "superb"}, "superb"),
        ({"text_a": "  ", "label": "good"}, "text"),
        ({"text_a": 7, "label": "good"}, "text_a"),
    ],
)
def test_a_bad_row_of_a_task_file_is_named(broken, tmp_path: Path, row: dict[str, object], words: str) -> None:  # type: ignore[no-untyped-def]
    path = write_rows(tmp_path / "bad.jsonl", [*toy_rows(20, seed=1), row])
    message = broken(lambda recipe: recipe["task"].update(train=str(path), labels=["bad", "good"]))
    assert "bad.jsonl" in message
    assert words in message
    assert "21" in message


def test_a_missing_task_file_is_named(broken) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: recipe["task"].update(train="/nowhere/train.jsonl"))
    assert "/nowhere/train.jsonl" in message


def test_a_given_teacher_without_a_trained_head_is_refused(broken) -> None:  # type: ignore[no-untyped-def]
    def change(recipe: dict) -> None:
        recipe["teacher"]["task_model"] = {"kind": "given", "model": recipe["teacher"]["model"]}

    assert "no trained classification head" in broken(change)


def test_a_given_teacher_no_better_than_guessing_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    guessing = toy_teacher(tmp_path / "guessing", labels=("bad", "good"))

    def change(recipe: dict) -> None:
        recipe["teacher"]["task_model"] = {"kind": "given", "model": str(guessing)}

    assert "always giving the best constant answer scores 50.0 %" in broken(change, code=1)


def test_a_given_teacher_with_other_classes_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = toy_teacher(tmp_path / "other", labels=("good", "old"))

    def change(recipe: dict) -> None:
        recipe["teacher"]["task_model"] = {"kind": "given", "model": str(folder)}

    assert "set task.labels to the teacher's names, or fine-tune another" in broken(change)


def test_a_teacher_with_another_digest_is_refused(broken) -> None:  # type: ignore[no-untyped-def]
    def change(recipe: dict) -> None:
        recipe["teacher"]["model"] = {"kind": "folder", "path": recipe["teacher"]["model"], "sha256": "0" * 64}

    assert "the recipe asks for 0000" in broken(change)


def test_a_different_vocabulary_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.support.builders import WORDS, tiny_tokenizer

    def change(recipe: dict) -> None:
        larger = tiny_tokenizer([*WORDS, *(f"word{index}" for index in range(50))])
        larger.save_pretrained(recipe["teacher"]["model"])

    assert "the vocabulary belongs to another model" in broken(change)


def test_a_teacher_that_is_not_a_folder_or_is_a_pickle_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "is not a folder" in broken(lambda recipe: recipe["teacher"].update(model=str(tmp_path / "none")))
    pickled = toy_teacher(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    message = broken(lambda recipe: recipe["teacher"].update(model=str(pickled)))
    assert "no .safetensors file" in message
    assert "weights_only=True" in message


def test_an_unreachable_hub_is_reported(broken) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: recipe["teacher"].update(model="example/none"), code=1)
    assert "the hub cannot be reached" in message
    assert "--set teacher.model=./folder" in message


def test_a_store_path_that_is_a_file_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    recipe = lambda recipe: None  # noqa: E731
    assert str(file) in broken(recipe, "--store", str(file))


def test_resuming_from_a_folder_without_a_checkpoint_is_refused(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: None, "--resume-from", str(tmp_path))
    assert "manifest.json" in message
    message = broken(lambda recipe: None, "--resume-from", "mlflow:0123456789abcdef0123456789abcdef")
    assert "0123456789abcdef" in message


def test_an_unknown_stage_or_recipe_is_refused(broken, distill: Distill) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: None, "--from", "task_specifc", "--until", "all")
    assert "--from task_specifc: recipe toy has no such stage (did you mean task_specific?)" in message
    assert "--until all: recipe toy has no such stage; it has general, general_enhanced" in message
    assert "swap them" in broken(lambda recipe: None, "--from", "task_specific", "--until", "general")
    assert "quickstart" in distill.refused("show", "quikstart")


def test_a_later_stage_without_the_earlier_ones_is_refused_before_training(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: None, "--from", "task_adaptive")
    assert "stages general, general_enhanced of this recipe" in message
    assert str(tmp_path / "store") in message
    assert "--resume-from" in message
    assert not list((tmp_path / "store" / "checkpoints").iterdir())
    assert not list((tmp_path / "store" / "points").iterdir())


def test_a_later_stage_is_refused_before_its_assistant_is_trained(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assistant = toy_recipe_dict(tmp_path / "other") | {"name": "assistant"}
    path = tmp_path / "assistant.yaml"
    path.write_text(yaml.safe_dump(assistant), encoding="utf-8")

    def change(recipe: dict) -> None:
        recipe["teacher"]["model"] = {"kind": "student_of", "recipe": str(path)}

    message = broken(change, "--from", "general_enhanced")
    assert "stage general of this recipe, which comes before it, is not in the store" in message
    assert not list((tmp_path / "store" / "checkpoints").iterdir())


def test_a_missing_task_folder_is_named_once(broken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    message = broken(lambda recipe: None, "--set", f"task={tmp_path}/nowhere")
    assert message.count("error:") == 1
    assert f"task.train: there is no file {tmp_path}/nowhere/train.*" in message
    assert f"there is no folder {tmp_path}/nowhere either" in message


def test_an_unknown_log_level_is_refused(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_LOG_LEVEL", "loud")
    message = distill.refused("recipes")
    assert "DISTILL_LOG_LEVEL=LOUD is no level; give one of" in message


def test_an_unreachable_prefect_server_is_reported(broken, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PREFECT_API_URL", "http://user:canary@127.0.0.1:9/api")
    message = broken(lambda recipe: None, code=1)
    assert "no Prefect server answers there" in message
    assert "canary" not in message


@pytest.mark.usefixtures("prefect")
def test_an_unreachable_mlflow_server_does_not_stop_a_run(
    distill: Distill, toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@127.0.0.1:9")
    code, _, err = distill(
        "run", toy_run.recipe, "--store", tmp_path / "store", "--until", "general", "--set", "baselines=[]"
    )
    assert code == 0, err
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    about_mlflow = [warning for warning in warnings if "127.0.0.1:9" in warning]
    assert len(about_mlflow) == 1
    assert "canary" not in about_mlflow[0]
    points = list((tmp_path / "store" / "points").glob("*.jsonl"))
    assert any("train/loss" in path.read_text(encoding="utf-8") for path in points)


def test_a_refused_run_prints_exactly_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    env = {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = ("run", "quickstart", "--store", file)
    with running(*processes.distill(*command), env=env) as run:
        assert run.wait(280) == 2, run.output
    (line,) = run.lines
    assert line.startswith(f"error: --store {file}: {file} is a file, not a folder")


def test_a_prefect_server_that_does_not_start_is_reported(tmp_path: Path) -> None:
    env = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "0", "PREFECT_HOME": str(tmp_path / "prefect")}
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in")), encoding="utf-8")
    command = ("run", recipe, "--store", tmp_path / "store")
    with running(*processes.distill(*command), env=env) as run:
        assert run.wait(280) == 1, run.output
    assert run.output.count("error:") == 1
    assert "prefect server start" in run.output
    assert "Traceback" not in run.output
