"""A student as an MLflow model, and figures."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from pipeline.reporting.loss_curves import loss_curves
from pipeline.reporting.score_figures import stage_comparison
from pipeline.tracking.artifacts import save_mlflow_model
from pipeline.tracking.client import load_mlflow
from pipeline.tracking.run_files import Point
from pipeline.tracking.session import Tracking
from schemas.results.manifest import Judgement, Row, RunReport
from tests.support.builders import tiny_tokenizer


def test_the_mlflow_form_of_a_student_loads_with_the_same_logits_and_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Tracking, database: str
) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "bad", 1: "fair", 2: "good"},
    )
    model: Any = BertForSequenceClassification(config)
    model.eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"asked for {args}")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        save_mlflow_model(tmp_path / "model", tmp_path / "flavor")
    names = {path.name for path in (tmp_path / "flavor").rglob("*") if path.is_file()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt"))}
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "flavor").glob("*") if p.is_file())
    child = opened.start_run("task_specific", {}, {})
    assert child.log_artifacts(tmp_path / "flavor", "model")
    child.finish()
    # Not set_tracking_uri: it would leave MLFLOW_TRACKING_URI behind for every later test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    loaded = load_mlflow().transformers.load_model(f"runs:/{child.run_id}/model")
    inputs = tokenizer("the film is not bad", return_tensors="pt")
    with torch.no_grad():
        # The last bit may differ: it depends on how the loader's memory is aligned.
        torch.testing.assert_close(loaded.model(**inputs).logits, model(**inputs).logits, rtol=1e-6, atol=1e-7)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert loaded("the film is not bad")[0]["label"] in ("bad", "fair", "good")


@pytest.mark.parametrize("example", [{"text": "a good film"}, {"text": "a good film", "text_pair": "it is not bad"}])
def test_the_mlflow_form_has_an_example_that_its_signature_accepts_and_that_it_answers(
    example: dict[str, str], tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "bad", 1: "good"},
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    save_mlflow_model(tmp_path / "model", tmp_path / "flavor", example)
    served = load_mlflow().pyfunc.load_model(str(tmp_path / "flavor"))
    stored = served.input_example
    assert stored == (example if "text_pair" in example else "a good film")
    (answer,) = served.predict(stored).to_dict("records")
    assert answer["label"] in ("bad", "good")
    assert [column.name for column in served.metadata.signature.inputs] == (
        ["text", "text_pair"] if "text_pair" in example else [None]
    )
    assert [column.name for column in served.metadata.signature.outputs] == ["label", "score"]
    needs = (tmp_path / "flavor" / "requirements.txt").read_text(encoding="utf-8")
    assert [line.partition("==")[0] for line in needs.split()] == ["mlflow", "transformers"]
    assert "torch" not in (tmp_path / "flavor" / "conda.yaml").read_text(encoding="utf-8")
    assert "It needs torch" in (tmp_path / "flavor" / "model_card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["TokenClassification", "QuestionAnswering", "MultipleChoice", ""])
def test_a_student_of_any_kind_keeps_its_head(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "O", 1: "B-PER"},
    )
    saved: Any = {
        "TokenClassification": BertForTokenClassification,
        "QuestionAnswering": BertForQuestionAnswering,
        "MultipleChoice": BertForMultipleChoice,
        "": BertModel,
    }[kind](config)
    saved.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    save_mlflow_model(tmp_path / "model", tmp_path / "flavor")
    if kind in ("QuestionAnswering", "MultipleChoice"):
        assert not (tmp_path / "flavor" / "MLmodel").exists(), "transformers has no pipeline for it"
        loaded = type(saved).from_pretrained(tmp_path / "flavor")
    else:
        pipeline = load_mlflow().transformers.load_model(str(tmp_path / "flavor"))
        loaded = pipeline.model
        words = pipeline("the film is not bad")
        assert {word["entity"] for word in words} <= {"O", "B-PER"} if kind else len(words[0][0]) == 16
    assert type(loaded) is type(saved)
    for name, weight in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_figures_are_drawn_from_full_partial_and_no_points() -> None:
    full = [
        Point(step, step, {"train/loss": 1 / step, "train/tokens": 64.0 * step, "x/y": 1.0}) for step in range(1, 200)
    ]
    odd = [Point(1, 1, {"train/hidden_loss": 0.0, "train/attention_loss": float("nan")})]
    for points in (full, full[:1], odd, []):
        assert loss_curves(points, "general").startswith(b"\x89PNG")
    rows = (
        Row(name="teacher", kind="teacher", status="given", judgement=Judgement()),
        Row(name="general", kind="stage", status="ran", judgement=Judgement(probe_accuracy=0.5)),
    )
    for some in (rows, rows[:1], ()):
        report = RunReport(run="r", recipe="e", task=None, rows=some, seconds=1.0, store="s")
        assert stage_comparison(report).startswith(b"\x89PNG")


def test_importing_tracking_does_not_import_mlflow_or_matplotlib() -> None:
    code = (
        "import sys, pipeline.tracking.session, pipeline.reporting.loss_curves, pipeline.tracking.artifacts\n"
        "assert not {'mlflow', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parents[4]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
