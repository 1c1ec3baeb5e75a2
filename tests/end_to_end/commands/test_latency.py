"""`latency` measures checkpoints, exports and other models in turn, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.latency.command import latency_table, numbers
from pipeline.latency.measure import Candidate, measure
from pipeline.latency.texts import load_of
from schemas.core.errors import ConfigError, DistillError
from schemas.results.latency import LatencyReport
from stages.data.batching.payloads import RowLabels
from stages.data.batching.tokens import Tokens
from tests.support.command_line import Distill, ToyRun


def tokens_of(sequences: list[list[int]]) -> Tokens:
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    return Tokens(
        ids=np.concatenate([np.array(sequence, np.int32) for sequence in sequences]),
        lengths=lengths,
        types=None,
        payload=RowLabels(np.zeros(len(sequences), np.int64)),
        pad_token_id=0,
        digest="toy",
        starts=np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64),
    )


SHAPES = ("--batch", "3", "--length", "8", "--threads", "1", "--rounds", "2")


@pytest.fixture(scope="module")
def student(toy_run: ToyRun) -> str:
    checkpoint = toy_run.report.rows[5].checkpoint
    assert checkpoint is not None
    return checkpoint.path


def test_every_model_is_measured_with_every_shape(
    student: str, distill: Distill, toy_run: ToyRun, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    exported = tmp_path / "exported"
    assert distill("export", student, "--to", exported, "--onnx", "--store", toy_run.store)[0] == 0
    code, out, err = distill("latency", student, exported, *SHAPES, "--store", toy_run.store, "--json")
    assert code == 0, err
    report = LatencyReport.model_validate(json.loads(out))
    names = [model.name for model in report.models]
    assert names[0].startswith("teacher (")
    assert names[1:] == [Path(student).name, "exported, torch", "exported, onnx fp32"]
    assert [(row.name, row.batch, row.length) for row in report.latencies] == [(name, 3, 8) for name in names]
    for row in report.latencies:
        assert 0 < row.wall_ms <= row.wall_ms_95
        assert row.times_faster_low <= row.times_faster <= row.times_faster_high
        assert row.processor_ms > 0
    first = report.latencies[0]
    assert first.times_faster == first.times_faster_low == first.times_faster_high == 1
    onnx = report.models[-1]
    assert onnx.size == (exported / "onnx" / "model.onnx").stat().st_size
    assert onnx.peak_bytes < report.models[0].peak_bytes, "torch takes more memory than ONNX Runtime alone"
    assert onnx.start_seconds > 0
    assert len(latency_table(report).rows) == 4


def test_another_model_can_be_the_reference(student: str, distill: Distill, toy_run: ToyRun) -> None:
    teacher = toy_run.recipe.parent / "in" / "teacher"
    words = ("latency", student, "--against", teacher, "--rounds", "1", "--store", toy_run.store)
    code, out, err = distill(*words)
    assert code == 0, err
    assert "a call, validation texts of task, 1 rounds" in out
    assert "own" in out
    assert "times faster: processor time of the first model" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no such name!",), "no such name! is no checkpoint, no run of the store, no export, and no model"),
        (("{student}", "--batch", "1,x"), "--batch 1,x: give whole numbers from 1, separated by commas"),
        (("{student}", "--length", "0"), "--length 0: give whole numbers from 1"),
        (("{teacher}",), "name a checkpoint or a run among the models"),
    ],
)
def test_mistakes_are_one_message(
    arguments: tuple[str, ...], message: str, student: str, distill: Distill, toy_run: ToyRun
) -> None:
    teacher = toy_run.recipe.parent / "in" / "teacher"
    given = [argument.format(student=student, teacher=teacher) for argument in arguments]
    if given[0] == "no such name!":
        given.append(student)
    code, _, err = distill("latency", *given, "--store", toy_run.store)
    assert code == 2
    assert message in err.replace("\n", " ")


def test_a_model_that_cannot_be_run_is_named_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    load = load_of(tokens_of([[1, 2, 3]]), np.array([0]), batch=1, length=None)
    with pytest.raises(DistillError, match=r"other \(.*broken.onnx\) cannot be run: \S"):
        measure([Candidate("other", broken)], [load], [1], rounds=1, texts="")


def test_texts_are_cut_and_repeated_to_the_length() -> None:
    tokens = tokens_of([[2, 7, 3], [2, 8, 9, 10, 3]])
    load = load_of(tokens, np.array([0, 1]), batch=2, length=4, calls=2)
    assert [batch["input_ids"] for batch in load.batches] == [[[2, 7, 3, 2], [2, 8, 9, 10]]] * 2
    assert load.batches[0]["attention_mask"] == [[1] * 4] * 2
    own = load_of(tokens, np.array([0, 1]), batch=2, length=None, calls=1)
    assert own.batches[0]["input_ids"] == [[2, 7, 3, 0, 0], [2, 8, 9, 10, 3]]
    assert own.batches[0]["attention_mask"] == [[1, 1, 1, 0, 0], [1] * 5]


def test_numbers_are_whole_and_positive() -> None:
    assert numbers("1, 16", "--batch") == (1, 16)
    with pytest.raises(ConfigError, match=r"--batch 1\.5: give whole numbers"):
        numbers("1.5", "--batch")
