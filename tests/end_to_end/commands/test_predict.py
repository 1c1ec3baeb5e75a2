"""`predict` answers texts, files and streams by exports, checkpoints and runs, as a person would ask."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.export.export import Wanted, export
from pipeline.predict import students
from schemas.results.export import EXPORT, ExportManifest
from tests.support.command_line import Distill, ToyRun
from tests.support.paths import ROOT

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")


@pytest.fixture(scope="module")
def checkpoint(toy_run: ToyRun) -> Path:
    """The toy run's teacher, which has learnt the task; its student has not."""
    reference = toy_run.report.rows[0].checkpoint
    assert reference is not None
    return Path(reference.path)


@pytest.fixture(scope="module")
def student(checkpoint: Path, toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of it, in float32 and in 8-bit integers."""
    to = tmp_path_factory.mktemp("predict") / "the student"
    export(str(checkpoint), to, Wanted(int8="dynamic", most_loss=100), store=toy_run.store)
    return to


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_an_export_and_its_checkpoint_give_the_same_answers(student: Path, checkpoint: Path, distill: Distill) -> None:
    texts = ("the film is good", "a dull, slow plot", "")
    named: dict[tuple[str | Path, ...], str] = {
        (student, "--precision", "fp32"): f"{student}/onnx/model.onnx (fp32), 1 thread",
        (student, "--precision", "torch"): f"{student}/model.safetensors (torch), 1 thread",
        (checkpoint,): f"{checkpoint}/model/model.safetensors (torch), 1 thread",
        (checkpoint / "model",): f"{checkpoint}/model/model.safetensors (torch), 1 thread",
    }
    answers = []
    for name, described in named.items():
        code, out, err = distill("predict", *name, *texts, "--threads", "1")
        assert code == 0, err
        assert f"answered by {described}\n" in err
        assert "1 of 3 rows had no text, and their answers are null" in err
        answers.append(lines(out))
    assert [(answer["row"], answer["text"]) for answer in answers[0]] == [*enumerate(texts, start=1)]
    assert answers[0][2] == {"row": 3, "text": "", "label": None, "score": None, "probabilities": None}
    for found in answers:
        assert [answer["label"] for answer in found] == ["good", "bad", None]
        for answer, expected in zip(found[:2], answers[0], strict=False):
            assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


def test_a_run_answers_by_its_last_student(distill: Distill, toy_run: ToyRun) -> None:
    reference = toy_run.report.rows[5].checkpoint
    assert reference is not None
    code, by_run, err = distill("predict", toy_run.report.run, "the film is good", "--store", toy_run.store)
    assert code == 0, err
    assert f"answered by {reference.path}/model/model.safetensors (torch)" in err
    assert by_run == distill("predict", reference.path, "the film is good")[1]


def test_accuracy_of_the_answers_is_the_one_that_was_judged(
    student: Path, distill: Distill, toy_run: ToyRun, tmp_path: Path
) -> None:
    validation = toy_run.recipe.parent / "in" / "task" / "validation.jsonl"
    manifest = ExportManifest.model_validate_json((student / EXPORT).read_text("utf-8"))
    assert manifest.score is not None
    for precision in ("fp32", "torch"):
        to = tmp_path / precision / "answers.jsonl"
        words = ("--keep", "label", "--to", to, "--precision", precision)
        code, out, err = distill("predict", student, "--file", validation, *words)
        assert (code, out) == (0, ""), err
        answers = lines(to.read_text("utf-8"))
        assert [answer["row"] for answer in answers] == [*range(1, 61)]
        right = sum(answer["label"] == answer["input"]["label"] for answer in answers)
        assert right / 60 == pytest.approx(manifest.score.value) == toy_run.report.rows[0].judgement.task_metric
        assert [path.name for path in to.parent.iterdir()] == ["answers.jsonl"]


def test_eight_bits_answer_where_they_are_and_torch_where_onnx_runtime_is_not(
    student: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = distill("predict", student, "the film is good")
    assert code == 0, err
    assert "onnx/model_quantized.onnx (int8)" in err
    assert lines(out)[0]["label"] == "good"
    monkeypatch.setattr(students, "has_onnx_runtime", lambda: False)
    code, out, err = distill("predict", student, "the film is good")
    assert code == 0, err
    assert "ONNX Runtime is not installed, so the weights are read in torch" in err
    assert "model.safetensors (torch)" in err
    assert lines(out)[0]["label"] == "good"


def test_long_texts_are_cut_and_counted(student: Path, distill: Distill) -> None:
    code, out, err = distill("predict", student, "good " * 100, "bad", "dull " * 30)
    assert code == 0, err
    assert [answer["label"] for answer in lines(out)] == ["good", "bad", "bad"]
    assert "2 of 3 texts were longer than 24 tokens and were cut" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a text",), "a text is no folder, and no run of"),
        (("{folder}", "a text"), "is a folder without export.json or manifest.json, and no run of"),
        (("{student}", "a", "--pair", "b"), "--pair: rows of this task have one text; leave it out"),
        (("{student}", "a", "--file", "b.csv"), "--file, and texts as well: give one of the two"),
        (("{student}", "-", "a"), "`-` stands for standard input, and other texts are given as well"),
        (("{student}", "-", "--pair", "a"), "--pair and --choice belong to texts of the command line"),
        (("{student}", "a", "--keep", "id"), "--text-columns and --keep belong to --file and to JSON lines"),
        (("{student}", "--file", "nowhere.csv"), "--file: there is no file nowhere.csv"),
        (("{student}", "--file", "{folder}"), "is a folder; give a file in it"),
        (("{student}", "-", "--encoding", "klingon"), "--encoding klingon: give one of utf-8"),
        (("{student}", "a", "--precision", "int4"), "--precision int4: give one of int8, fp16, fp32, torch"),
        (("{student}", "a", "--precision", "fp16"), "has no such file (there are: fp32, int8, torch)"),
        (("{checkpoint}", "a", "--precision", "int8"), "has no such file (there are: torch)"),
        (("{general}", "a"), "is a student of the stage general, which trains no head"),
        (("{student}", "a", "--to", "{student}"), "it exists already; give a new file, or remove it"),
    ],
)
def test_mistakes_are_one_message(
    arguments: Sequence[str], message: str, student: Path, checkpoint: Path, distill: Distill, toy_run: ToyRun
) -> None:
    general = toy_run.report.rows[2].checkpoint
    assert general is not None
    names = {"student": student, "checkpoint": checkpoint, "general": general.path, "folder": toy_run.recipe.parent}
    given = [argument.format(**names) for argument in arguments]
    assert message in distill.refused("predict", *given, "--store", toy_run.store)


def test_a_damaged_export_and_one_without_its_tasks_form_are_refused(
    student: Path, distill: Distill, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    (copy / "onnx").mkdir(parents=True)
    for path in (path for path in student.rglob("*") if path.is_file()):
        (copy / path.relative_to(student)).write_bytes(path.read_bytes())
    code, out, err = distill("verify", copy)
    assert code == 0, err
    assert "7 files, " in out
    assert "all match the manifest" in out
    assert json.loads(distill("verify", copy, "--json")[1])["models"][0]["file"] == "onnx/model.onnx"
    (copy / "notes.txt").touch()
    assert "is damaged: notes.txt is not in its manifest; export again" in distill.refused("verify", copy)
    (copy / "onnx" / "model.onnx").write_bytes(b"x" * (student / "onnx" / "model.onnx").stat().st_size)
    assert "is damaged: onnx/model.onnx has other content" in distill.refused("predict", copy, "a")
    assert "onnx/model.onnx has other content" in distill.refused("verify", copy)
    (copy / EXPORT).write_text("{}", encoding="utf-8")
    assert "cannot be read as an export's manifest" in distill.refused("predict", copy, "a")
    (copy / "onnx" / "model.onnx").write_bytes((student / "onnx" / "model.onnx").read_bytes())
    manifest = json.loads((student / EXPORT).read_text("utf-8"))
    (copy / EXPORT).write_text(json.dumps(manifest | {"form": None}), encoding="utf-8")
    assert "did not record the form of its rows; export again" in distill.refused("predict", copy, "a")


def test_a_file_that_breaks_in_the_middle_leaves_no_answers_behind(
    student: Path, distill: Distill, tmp_path: Path
) -> None:
    rows = [{"text": "good"}] * 1200 + [{"text": ["a", 1]}]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:3]) + '{"text": "a"\n', "utf-8"
    )
    message = distill.refused("predict", student, "--file", tmp_path / "rows.jsonl", "--to", tmp_path / "to.jsonl")
    assert "rows.jsonl: line 4 is not valid JSON" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_a_full_disk_is_one_message(student: Path, distill: Distill, tmp_path: Path) -> None:
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limit))
    try:
        message = distill.refused("predict", student, *["good"] * 300, "--to", tmp_path / "to.jsonl", code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    assert "to.jsonl cannot be written (File too large); give another file with --to, or make room there" in message
    assert list(tmp_path.iterdir()) == []
    with open("/dev/full", "w") as full, started(student, "good", stdout=full) as process:
        _, err = process.communicate()
    assert "error: standard output cannot be written (No space left on device)" in err
    assert "Traceback" not in err
    assert process.returncode == 1


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start `distill predict` as a person does, in a process of its own."""
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "predict", *map(str, arguments)],
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **(streams | options),
    )


def test_a_stream_is_answered_line_by_line_until_a_line_is_broken(student: Path) -> None:
    with started(student, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, text in enumerate(("the film is good", "dull"), start=1):
            process.stdin.write(json.dumps({"id": number, "text": text}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert (answer["row"], answer["text"], answer["label"]) == (number, text, ("good", "bad")[number - 1])
        out, err = process.communicate('{"text": "great"}\n{"text": \n')
    assert [answer["label"] for answer in lines(out)] == ["good"]
    assert "error: standard input: line 4 is no JSON object" in err
    assert "3 rows at" in err
    assert "Traceback" not in err
    assert process.returncode == 2


def test_a_closed_pipe_and_a_pressed_key_end_it_quietly(student: Path) -> None:
    with started(student) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("good\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["label"] == "good"
        process.stdout.close()
        _, err = process.communicate("bad\n" * 5000)
    assert (err, process.returncode) == ("", 141)
    with started(student, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("good\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert err.startswith("1 row at")
    assert len(err.splitlines()) == 1
    assert process.returncode == 130


def test_an_export_is_answered_without_torch_and_transformers(student: Path, tmp_path: Path) -> None:
    program = (
        "import atexit, sys\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'mlflow', 'prefect', 'scipy', 'sklearn'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['distill', 'predict', {str(student)!r}, 'the film is good', 'bad']\n"
        "from pipeline.command_line import main\n"
        "main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [answer["label"] for answer in lines(done.stdout)] == ["good", "bad"]
    assert done.stderr.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []
