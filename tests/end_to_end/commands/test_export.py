"""`export` writes students that run as their card says, and nothing that answers differently."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException

from pipeline.export import writer
from pipeline.export.export import EXPORT, Wanted, export
from pipeline.export.subject import open_subject
from pipeline.registry.champion import read_answers
from pipeline.registry.light_model import read_export, save_light_model
from pipeline.shipping.forms import export_folder
from pipeline.store.checkpoints import open_checkpoint
from pipeline.tracking.client import load_mlflow
from schemas.core.errors import ConfigError, DistillError
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import stage_config, task_teachers, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.results.export import ExportManifest
from stages.ports.plain import plain_ports
from stages.run import run_stage
from stages.storage.sealed_folder import measure
from tests.support.command_line import Distill, ToyRun
from tests.support.kinds import ROWS, kind_recipe_dict

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")


def trained(folder: Path, kind: str) -> Path:
    """Return the checkpoint of a fine-tuned teacher, or of a student for vectors, which have no such teacher."""
    recipe = Recipe.model_validate(kind_recipe_dict(folder, kind, steps=2))
    if configs := teacher_configs(recipe):
        return Path(run_stage(configs[0], None, plain_ports(folder)).checkpoint.path)
    teachers = task_teachers(recipe, {})
    return Path(run_stage(stage_config(recipe, recipe.stages[-1], teachers), None, plain_ports(folder)).checkpoint.path)


def programs(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)


# One process for all cards: its imports take seconds.
READER = """
import contextlib, io, json, os, sys
for line in sys.stdin:
    card, printed = json.loads(line), io.StringIO()
    os.chdir(card["folder"])
    with contextlib.redirect_stdout(printed):
        exec(compile(card["code"], "README.md", "exec"), {"__name__": "__main__"})
    sys.stdout.write(json.dumps(printed.getvalue()) + "\\n")
    sys.stdout.flush()
"""
Reader = Callable[[list[str], Path], str]


@pytest.fixture(scope="module")
def run_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Run a card's programs as its reader would, one after the other, in the folder that contains the export."""
    errors = tmp_path_factory.mktemp("reader") / "errors.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (
        errors.open("w") as written,
        subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env=environment,
        ) as process,
    ):

        def run(codes: list[str], folder: Path) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"folder": str(folder.parent), "code": "\n".join(codes)}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, errors.read_text()
            return str(json.loads(line))

        yield run
        assert process.stdin is not None
        process.stdin.close()


def predictions(distill: Distill, *arguments: str | Path) -> list[dict[str, Any]]:
    code, out, err = distill("predict", *arguments)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def rounded(value: Any) -> Any:
    """Return an answer with numbers that rounding may change replaced by what they are approximately."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def is_served_with_the_same_answers(kind: str, folder: Path, checkpoint: Path) -> None:
    """Check that the light model of an export answers texts as its ONNX file does, or is refused by the kind's name."""
    if kind in ("question_answering", "multiple_choice"):
        with pytest.raises(ConfigError, match=f"a {kind} student cannot be served as a model of texts; served are"):
            save_light_model(folder / "student", folder / "light")
        assert not (folder / "light").exists()
        return
    save_light_model(folder / "student", folder / "light")
    data = open_checkpoint(checkpoint)[1].config.data
    assert isinstance(data, TaskDataset)
    exported, model = read_export(folder / "student")
    scorer, expected = read_answers(folder / "student", model.file, exported, data.task, folder / "cache")
    rows, labels = scorer.rows.data, scorer.rows.task.labels
    columns = {name: list(rows[name]) for name in ("text", "text_pair") if name in rows.column_names}
    if kind == "token_classification":
        columns = {"text": [" ".join(words) for words in rows["words"]]}
    served = load_mlflow().pyfunc.load_model(str(folder / "light"))
    answers = served.predict(pd.DataFrame(columns))
    if kind == "pair":
        assert [labels.index(label) for label in answers["label"]] == expected.tolist()
        assert answers["score"].between(0.5, 1).all()
        with pytest.raises(MlflowException, match=r"row 1, column 'text_pair': .* is no text"):
            served.predict(pd.DataFrame({"text": ["a", "b"], "text_pair": ["a", None]}))
    elif kind == "multi_label":
        chosen = [[labels.index(entry["label"]) for entry in entries] for entries in answers["labels"]]
        assert chosen == [np.flatnonzero(row).tolist() for row in expected]
    elif kind == "token_classification":
        assert [[word["tag"] for word in words] for words in answers["tags"]] == expected
        for text, words, entities in zip(columns["text"], answers["tags"], answers["entities"], strict=True):
            assert [text[word["start"] : word["end"]] for word in words] == text.split()
            assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)
        count = sum(len(entities) for entities in answers["entities"])
        assert count == sum(tag.startswith("B-") for tags in expected for tag in tags) + _loose(expected)
    else:
        np.testing.assert_allclose(np.stack(answers.iloc[:, 0].to_list()), expected, rtol=1e-4, atol=1e-5)


def _loose(rows: list[list[str]]) -> int:
    """Return the number of entities that begin without a B."""
    return sum(
        tag.startswith("I-") and before[1:] != tag[1:]
        for tags in rows
        for before, tag in zip(["O", *tags], tags, strict=False)
    )


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_task_is_exported_and_runs_as_its_card_says(
    kind: str, distill: Distill, run_both: Reader, tmp_path: Path
) -> None:
    checkpoint = trained(tmp_path, kind)
    exported = export(str(checkpoint), tmp_path / "student", Wanted(onnx=True), store=tmp_path / "store")
    (fp32,) = exported.models
    assert fp32.largest_difference < 1e-4
    assert fp32.same_answers == pytest.approx(1, abs=1e-6)
    is_served_with_the_same_answers(kind, tmp_path, checkpoint)
    first, second = programs(tmp_path / "student")
    assert "import torch" not in second
    assert "transformers" not in second
    printed = run_both([first, second], tmp_path / "student").splitlines()
    assert len(printed) >= 2
    validation = tmp_path / kind / "validation.jsonl"
    answers = predictions(distill, tmp_path / "student", "--file", validation, "--precision", "fp32")
    in_torch = predictions(distill, checkpoint, "--file", validation)
    assert len(answers) == 60
    assert in_torch == rounded(answers)
    if kind == "pair":
        (answer,) = predictions(distill, tmp_path / "student", "Is it late?", "--pair", "It is late.")
        assert printed[-1] == f"[{exported.labels.index(answer['label'])}]"
    elif kind == "regression":
        texts = predictions(distill, tmp_path / "student", "A short text.", "Another one.")
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", "".join(printed[-2:]))]
        assert numbers[-2:] == [pytest.approx(answer["value"], abs=1e-4) for answer in texts]
    elif kind == "question_answering":
        (tmp_path / kind / "train.jsonl").unlink()
        code, out, err = distill("predict", checkpoint, "is it red " * 8, "--pair", "red film", "--store", tmp_path)
        assert code == 0, err
        assert "it is not known whether a question may have no answer: every question gets one" in err
        assert json.loads(out)["answer"] in "red film"
        assert "1 of 1 questions was longer than 8 tokens and was cut" in err


@pytest.fixture(scope="module")
def student(toy_run: ToyRun) -> str:
    checkpoint = toy_run.report.rows[5].checkpoint
    assert checkpoint is not None
    assert checkpoint.stage == "task_specific"
    return checkpoint.path


def test_a_runs_last_student_is_exported_by_the_runs_name(distill: Distill, toy_run: ToyRun, tmp_path: Path) -> None:
    to = tmp_path / "student"
    words = ("--int8", "dynamic", "--fp16", "--triton", "--most-loss", "100")
    code, out, err = distill("export", toy_run.report.run, "--to", to, *words, "--store", toy_run.store)
    assert code == 0, err
    assert "onnx/model.onnx" in out
    assert "which lost least of four ways on texts of training" in out
    assert f"how to use them: {to / 'README.md'}" in out.replace("\n", "")
    manifest = ExportManifest.model_validate_json((to / EXPORT).read_text(encoding="utf-8"))
    assert (manifest.stage, manifest.task) == ("task_specific", "task")
    assert manifest.files == {name: entry for name, entry in measure(to).items() if name != EXPORT}
    fp32, fp16, int8 = manifest.models
    assert (fp32.number_format, fp16.number_format, int8.number_format) == ("fp32", "fp16", "int8")
    assert fp32.batch_difference < 1e-4
    assert int8.size < fp16.size < fp32.size
    assert int8.largest_difference > fp32.largest_difference
    served = to / "triton" / "student"
    assert (served / "1" / "model.onnx").read_bytes() == (to / int8.file).read_bytes()
    assert 'name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ]' in (served / "config.pbtxt").read_text("utf-8")


def test_the_card_can_be_read_by_the_hub_and_names_no_path(student: str, toy_run: ToyRun, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export(student, tmp_path / "student", Wanted(), store=toy_run.store)
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.eval_results[0].metric_type == "accuracy"
    assert card.data.license == "other"
    assert str(toy_run.store) not in card.content
    assert str(toy_run.recipe.parent) not in card.content
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", card.content, re.DOTALL)[0])
    assert settings["name"] == "task_specific"
    assert settings["data"]["task"]["train"] == "train.jsonl"


def test_a_pruned_vocabulary_says_what_it_costs(
    student: str, distill: Distill, toy_run: ToyRun, tmp_path: Path
) -> None:
    to, words = tmp_path / "student", tmp_path / "words.txt"
    words.write_text("quick\n", encoding="utf-8")
    code, out, err = distill(
        "export", student, "--to", to, "--onnx", "--prune-vocabulary", words, "--store", toy_run.store
    )
    assert code == 0, err
    manifest = ExportManifest.model_validate_json((to / EXPORT).read_text(encoding="utf-8"))
    assert manifest.pruned is not None
    assert manifest.vocabulary == manifest.pruned.kept <= manifest.pruned.of
    assert manifest.models[0].same_answers == 1
    assert f"vocabulary: {manifest.pruned.kept:,} of {manifest.pruned.of:,} pieces" in out


def test_a_checkpoint_without_a_head_is_compared_by_its_hidden_states(toy_run: ToyRun, tmp_path: Path) -> None:
    checkpoint = toy_run.report.rows[2].checkpoint
    assert checkpoint is not None
    assert checkpoint.stage == "general"
    exported = export(checkpoint.path, tmp_path / "encoder", Wanted(onnx=True), store=toy_run.store)
    (fp32,) = exported.models
    assert (exported.task, exported.score, fp32.same_answers) == (None, None, None)
    assert fp32.rows > 0
    assert fp32.largest_difference < 1e-4


def test_the_table_of_a_student_without_a_head_is_found_where_it_was_kept(toy_run: ToyRun, tmp_path: Path) -> None:
    checkpoint = toy_run.report.rows[2].checkpoint
    assert checkpoint is not None
    subject = open_subject(Path(checkpoint.path), None, tmp_path, most_rows=7)
    kept = export_folder(subject.manifest, tmp_path, subject.most_rows)
    assert kept == export_folder(checkpoint, tmp_path, 7), "a run that finds everything would measure it again"


def test_a_file_that_answers_differently_is_not_kept(
    student: str, toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = writer.onnx_logits

    def shifted(*arguments: Any) -> list[np.ndarray]:
        return [row + 0.01 for row in exact(*arguments)]

    monkeypatch.setattr(writer, "onnx_logits", shifted)
    with pytest.raises(DistillError, match=r"answers differently from the checkpoint: by up to 0\.01"):
        export(student, tmp_path / "student", Wanted(onnx=True), store=toy_run.store)
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_that_cost_too_much_are_refused_with_the_loss(student: str, toy_run: ToyRun, tmp_path: Path) -> None:
    # A student this small loses nothing, so that every loss is allowed but none that it could have.
    wanted = Wanted(int8="dynamic", most_loss=-200)
    with pytest.raises(
        DistillError, match=r"8-bit integers cost [-\d.]+ points of accuracy on 60 texts .* more than -200"
    ):
        export(student, tmp_path / "student", wanted, store=toy_run.store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--int8", "best"), "--int8 best: give dynamic or static"),
        (
            ("--prune-vocabulary", "nowhere.txt"),
            "--prune-vocabulary nowhere.txt: give `task`, or the path of a text file",
        ),
        (("--task", "nowhere.yaml"), "there is no recipe nowhere.yaml"),
    ],
)
def test_mistakes_are_one_message(
    arguments: tuple[str, ...], message: str, student: str, distill: Distill, toy_run: ToyRun, tmp_path: Path
) -> None:
    code, _, err = distill("export", student, "--to", tmp_path / "to", "--store", toy_run.store, *arguments)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert not (tmp_path / "to").exists()


def test_an_existing_folder_and_an_unknown_run_are_refused(student: str, toy_run: ToyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it exists already; give a new folder"):
        export(student, tmp_path, Wanted(), store=toy_run.store)
    with pytest.raises(ConfigError, match="no run"):
        export("no-run-of-this-name", tmp_path / "to", Wanted(), store=toy_run.store)


def test_a_damaged_checkpoint_and_a_missing_package_leave_nothing(
    student: str, distill: Distill, toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = shutil.copytree(student, tmp_path / Path(student).name)
    with (damaged / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    to = tmp_path / "out" / "to"
    message = distill.refused("export", damaged, "--to", to, "--store", toy_run.store)
    assert "model.safetensors" in message
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = distill.refused("export", student, "--to", to, "--onnx", "--store", toy_run.store)
    assert "ONNX files need the packages of the extra `onnx`: pip install 'distill-flow[onnx]'" in message
    assert list(to.parent.glob("*")) == []
