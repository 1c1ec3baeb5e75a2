"""`register` puts students into MLflow's registry, and crowns the better one on the same rows only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.export.export import Wanted, export
from pipeline.registry import command, light_model
from pipeline.registry.command import Registration, register
from pipeline.registry.light_model import log_light_model, read_export
from pipeline.tracking.client import load_mlflow
from pipeline.tracking.session import Tracking
from schemas.core.errors import CheckpointError, ConfigError, DistillError, ServiceError
from tests.support.command_line import Distill, ToyRun
from tests.support.processes import free_port, running
from tests.support.toys import toy_rows, write_rows

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")


@pytest.fixture(scope="module")
def store(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moved copy of the toy run's store: its own MLflow has the run, and others' tests do not see the models."""
    return Path(shutil.copytree(toy_run.store, tmp_path_factory.mktemp("register") / "store"))


@pytest.fixture(scope="module")
def student(toy_run: ToyRun, store: Path) -> Path:
    """The export of the last student, with two files."""
    to = store.parent / "student"
    export(toy_run.report.run, to, Wanted(onnx=True, int8="dynamic", most_loss=100), store=store)
    return to


@pytest.fixture(scope="module")
def first(student: Path, store: Path) -> Registration:
    return register(str(student), store=store)


@pytest.fixture(autouse=True)
def _no_deprecations() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # MLflow and SQLAlchemy
        yield


def client_of(store: Path) -> Any:
    return load_mlflow().MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


def teacher_of(run: ToyRun, store: Path) -> str:
    checkpoint = run.report.rows[0].checkpoint
    assert checkpoint is not None
    assert checkpoint.stage == "teacher"
    return str(store / "checkpoints" / Path(checkpoint.path).name)


def in_float32(student: Path, to: Path) -> Path:
    """Copy an export with its first file alone."""
    shutil.copytree(student, to)
    manifest = json.loads((to / "export.json").read_text(encoding="utf-8"))
    manifest["models"] = manifest["models"][:1]
    (to / "export.json").write_text(json.dumps(manifest), encoding="utf-8")
    return to


def test_the_first_version_is_the_champion_and_tells_all_about_itself(
    first: Registration, student: Path, store: Path, toy_run: ToyRun
) -> None:
    assert (first.name, first.version, first.is_new, first.is_champion) == ("task", "1", True, True)
    assert first.decision == "version 1 is the champion, since there was none"
    client = client_of(store)
    version = client.get_model_version_by_alias("task", "champion")
    row = toy_run.report.rows[5]
    assert row.checkpoint is not None
    assert (str(version.version), version.run_id) == ("1", row.mlflow_run_id)
    assert version.tags["distill.digest"] == row.checkpoint.digest
    assert version.tags["distill.stage"] == "task_specific"
    assert version.tags["distill.metric"] == "accuracy"
    assert first.score is not None
    assert version.tags["distill.score"].startswith(f"{first.score.value:.4f} ({first.score.low:.4f} to ")
    assert len(version.tags["distill.rows"]) == 64
    assert "| labels | `bad`, `good` |" in version.description
    assert "`champion` moves to a new version only if" in client.get_registered_model("task").description
    model = client.get_logged_model(first.model_id)
    assert (model.status, model.name, model.source_run_id) == (
        "READY",
        "task_specific onnx int8",
        row.mlflow_run_id,
    )
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "task", "version": 1}]
    scores = {metric.key: metric.value for metric in model.metrics}
    exported, file = read_export(student)
    assert file.score is not None
    assert scores["served/accuracy"] == file.score.value == first.score.value
    files = {path.name for path in Path(version.source.removeprefix("file://")).rglob("*") if path.is_file()}
    assert {"served_student.py", "tokenizer.json", "model_quantized.onnx", "answers.json", "MLmodel"} <= files
    assert not {name for name in files if name.endswith((".pkl", ".bin", ".pt", ".safetensors"))}
    assert exported.labels == ("bad", "good")


def test_the_champion_changes_only_for_a_version_that_is_clearly_better_on_the_same_rows(
    first: Registration, student: Path, store: Path, toy_run: ToyRun, distill: Distill
) -> None:
    client = client_of(store)
    code, out, err = distill("register", teacher_of(toy_run, store), "--fp32", "--store", store)
    assert code == 0, err
    assert "task, version 2: fp32" in out
    assert "version 2 is the champion now: +" in out
    assert "on the same 60 rows) against version 1" in out.replace("\n", " ")
    assert "--model-uri models:/task@champion --env-manager local --host 127.0.0.1" in out
    assert str(client.get_model_version_by_alias("task", "champion").version) == "2"

    # The same file again is the same version, and is worse.
    code, out, err = distill("register", student, "--store", store, "--json")
    assert code == 0, err
    again = json.loads(out)
    assert (again["version"], again["is_new"], again["is_champion"]) == ("1", False, False)
    assert again["model_id"] == first.model_id
    assert again["difference"]["value"] < 0
    assert "version 2 stays the champion: version 1 has -" in again["decision"]
    assert "which is not clearly better" in again["decision"]
    assert len(client.search_model_versions("name='task'")) == 2
    assert str(client.get_model_version_by_alias("task", "champion").version) == "2"

    # Other rows are never compared, however good the answers are.
    other = write_rows(store.parent / "other.jsonl", toy_rows(40, seed=9))
    task = f"{{kind: files, train: '{other}', validation: '{other}'}}"
    elsewhere = register(str(student), task=task, store=store)
    assert not elsewhere.is_champion
    assert elsewhere.difference is None
    assert "since the champion was scored on other rows, or with other labels" in elsewhere.decision


def test_a_champion_whose_answers_are_lost_stays(student: Path, store: Path) -> None:
    name = "lost answers"
    mine = register(str(student), model_name=name, store=store)
    source = client_of(store).get_model_version(name, mine.version).source
    kept = Path(source.removeprefix("file://")) / "answers.json"
    whole = kept.read_text(encoding="utf-8")
    other = in_float32(student, store.parent / "float32")
    for content, reason in (
        (None, "cannot be read"),
        ("{", "cannot be read"),
        (whole.replace('"answers":[', '"answers":[[1],'), "does not fit the rows"),
    ):
        kept.unlink() if content is None else kept.write_text(content, encoding="utf-8")
        outcome = register(str(other), model_name=name, store=store)
        assert not outcome.is_champion
        assert reason in outcome.decision
    # Without the checkpoint nobody knows the rows.
    alone = read_export(other)[0]
    folder = store / "checkpoints" / f"{alone.stage}-{alone.digest[:16]}"
    folder.rename(store.parent / "away")
    try:
        outcome = register(str(other), model_name=name, store=store)
    finally:
        (store.parent / "away").rename(folder)
    assert (outcome.score, outcome.is_champion) == (None, False)
    assert "its checkpoint, which knows the task, is not in the store" in outcome.decision


def test_the_light_model_of_a_run_goes_through_its_outbox(student: Path, tmp_path: Path) -> None:
    away = Tracking(f"http://127.0.0.1:{free_port()}", "e", tmp_path / "points", patience=5)
    with away.start_run("toy", {}, {}) as run:
        assert not log_light_model(student, run, {"text": "a good film"})
    away.close()
    (kept,) = (tmp_path / "points").glob("*.unsent/*/files")
    assert json.loads((kept / "input_example.json").read_text()) == ["a good film"]
    assert "/" not in json.loads((kept / "artifacts" / "student" / "serving.json").read_text())["file"]
    assert str(tmp_path) not in (kept / "MLmodel").read_text() + (kept / "conda.yaml").read_text()


def test_mistakes_are_one_message_and_register_nothing(
    student: Path, store: Path, toy_run: ToyRun, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general = next(row.checkpoint for row in toy_run.report.rows if row.name == "general")
    assert general is not None
    cases: list[tuple[list[str | Path], str]] = [
        (["no-such-run"], "there is no run 'no-such-run'"),
        ([tmp_path], "does not exist" if not tmp_path.is_dir() else "has no manifest.json"),
        ([student, "--name", "a/b"], "--name a/b: give letters, digits, blanks"),
        ([student, "--fp32"], "is exported already"),
        ([student, "--task", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
        ([store / "checkpoints" / Path(general.path).name], "a general checkpoint has no trained head"),
    ]
    before = len(client_of(store).search_registered_models())
    for words, message in cases:
        code, _, err = distill("register", *words, "--store", store)
        assert (code, err.count("error:")) == (2, 1), err
        assert message in err.replace("\n", " ")
    plain = Path(shutil.copytree(student, tmp_path / "plain"))
    (plain / "onnx" / "model_quantized.onnx").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model_quantized\.onnx has 7 bytes, its manifest says"):
        register(str(plain), store=store)
    export(toy_run.report.run, tmp_path / "torch", Wanted(), store=store)
    with pytest.raises(ConfigError, match="has no ONNX file; export it with"):
        register(str(tmp_path / "torch"), store=store)
    with monkeypatch.context() as patch:
        patch.setattr(light_model, "find_spec", lambda _: None)
        with pytest.raises(ConfigError, match=r"pip install 'distill-flow\[onnx\]'"):
            register(str(student), store=store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(
        ServiceError, match=r"http://127\.0\.0\.1:\d+ cannot be reached .* nothing was registered"
    ) as away:
        register(str(student), store=store)
    assert "s3cret" not in str(away.value)
    assert len(client_of(store).search_registered_models()) == before


@pytest.mark.slow
def test_eight_bits_that_cost_too_much_are_refused_with_a_remedy(
    store: Path, toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A student this small loses nothing, so that every loss is allowed but none that it could have.
    monkeypatch.setattr(command, "Wanted", partial(Wanted, most_loss=-200))
    with pytest.raises(DistillError, match=r"8-bit integers cost .*; here: --fp32, or register the folder"):
        register(toy_run.report.run, model_name="dear", store=store)
    assert not list((store / "points").glob(".tmp-*"))
    assert "dear" not in {model.name for model in client_of(store).search_registered_models()}


@pytest.mark.slow
def test_a_server_without_torch_answers_as_the_export_does(first: Registration, store: Path, tmp_path: Path) -> None:
    # Neither torch nor this project can be imported in the server.
    names = ("torch", "transformers", "pipeline", "stages", "schemas")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({names})\n")
    port = free_port()
    words = ["models", "serve", "--model-uri", f"models:/{first.name}/{first.version}", "--env-manager", "local"]
    environment = {
        "MLFLOW_TRACKING_URI": first.tracking_uri,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # MLflow starts uvicorn by its name
    }
    texts = [row["text_a"] for row in toy_rows(20, seed=3)]
    program = (sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port))
    with running(*program, env=environment) as server:
        server.wait_for("Application startup complete", seconds=280)
        body = json.dumps({"inputs": texts}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answers = json.load(response)["predictions"]
    local = load_mlflow().pyfunc.load_model(client_of(store).get_model_version(first.name, first.version).source)
    assert answers == local.predict(texts).to_dict("records")
