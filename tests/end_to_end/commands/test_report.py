"""`report` writes a run as one page that needs nothing from elsewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from contextlib import redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from pipeline.html.findings import Findings
from pipeline.html.page import verdict
from pipeline.html.svg import as_svg
from pipeline.reporting.loss_curves import BLACK, new_figure
from pipeline.reporting.shipping_table import shipping_lines
from schemas.results.score import Score
from schemas.results.shipping import Shipping
from stages.export.int8 import variants
from tests.support.command_line import Distill, ToyRun

_VOID = {"meta", "br", "img", "link", "input", "hr"}


class Balanced(HTMLParser):
    """Counts elements, and fails on one that is closed in another's place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def closed(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """The toy recipe again, on a copy of its store, with an export at the end."""
    from pipeline.export import writer
    from pipeline.flow import distill_flow
    from pipeline.planning.options import RunOptions

    store = tmp_path_factory.mktemp("closed") / "store"
    shutil.copytree(toy_run.store, store)
    with pytest.MonkeyPatch.context() as patch:
        # The choice among four ways to quantise is tested with `export`.
        patch.setattr(writer, "variants", lambda mode: variants(mode)[:1])
        patch.setenv("DISTILL_EXPORTS", "1")
        report = distill_flow(recipe=str(toy_run.recipe), options=RunOptions(store=str(store)))
    return ToyRun(toy_run.recipe, store, report)


@pytest.fixture(scope="module")
def written(closed: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    from pipeline.html.command import write_report

    to = tmp_path_factory.mktemp("page") / "report.html"
    lines: list[str] = []
    write_report(closed.report.run, to, lines.append, closed.store)
    assert lines == ["MLflow's run has a copy, report.html"], "the run's export and its measurement are used"
    return to.read_text(encoding="utf-8")


def test_a_run_ends_with_what_is_shipped(closed: ToyRun, distill: Distill) -> None:
    shipping = closed.report.shipping
    assert shipping is not None
    names = ["teacher", "student", "student, ONNX", "student, ONNX int8"]
    assert [form.name for form in shipping.forms] == names
    assert shipping.forms[0].latency.times_faster == 1
    (checkpoint,) = [row.checkpoint for row in closed.report.rows if row.name == "task_specific"]
    assert shipping.forms[1].size == (Path(checkpoint.path) / "model" / "model.safetensors").stat().st_size
    assert shipping.forms[2].same_answers == 1
    assert shipping.forms[3].size < shipping.forms[2].size
    code, out, err = distill("compare", "--store", closed.store)
    assert code == 0, err
    table = out[out.index("what you ship") :]
    assert [name for name in names if re.search(rf"^ ?{name} +\d", table, re.MULTILINE)] == names
    run = closed.report.run
    assert f"ship it: distill export {run} --to student --onnx --int8 dynamic, or distill register {run}" in table


def test_the_last_lines_run_as_they_are_printed(closed: ToyRun, distill: Distill) -> None:
    shipping = closed.report.shipping
    assert shipping is not None
    code, out, _ = distill("compare", "--store", closed.store)
    assert code == 0
    (command,) = [line.removeprefix("try it: ") for line in out.splitlines() if line.startswith("try it: ")]
    program, *arguments = shlex.split(command)
    assert program == "distill"
    code, answer, err = distill(*arguments, "--store", closed.store)
    assert code == 0, err
    assert shipping.example["text"] in command
    printed = out[out.index("use it in Python:\n") :].splitlines()[1:]
    code_lines = [line.removeprefix("    ") for line in printed if line.startswith("    ")]
    assert "\n".join(code_lines) == shipping.python
    with redirect_stdout(StringIO()) as written:
        exec(shipping.python, {})
    (result,) = ast.literal_eval(written.getvalue())
    assert result["label"] == json.loads(answer)["label"]


def test_rows_are_written_as_a_shell_reads_them() -> None:
    def arguments(**example: str) -> list[str]:
        forms = Shipping(forms=(), texts="", rounds=1, processor="", is_busy=False, example=example)
        (line,) = [line for line in shipping_lines(forms, "run") if line.startswith("try it: ")]
        return shlex.split(line)[5:]

    assert arguments(text='it\'s "$HOME" `x`') == ['it\'s "$HOME" `x`']
    assert arguments(text="-1 degrees") == ["--", "-1 degrees"]
    assert arguments(text="one", text_pair="-two") == ["--pair=-two", "one"]
    assert arguments(text="two\nlines", text_pair="x" * 500) == ["--pair=its second text", "a text"]


def test_mlflow_has_sizes_and_times_of_every_form(closed: ToyRun) -> None:
    import mlflow

    run = mlflow.MlflowClient(f"sqlite:///{closed.store}/mlflow.db").get_run(closed.report.mlflow_run_id)
    form = closed.report.shipping.forms[3]
    assert run.data.metrics["ship/student_onnx_int8/bytes"] == form.size
    assert run.data.metrics["ship/student_onnx_int8/times_faster"] == form.latency.times_faster


def test_the_run_has_a_model_that_is_served_without_torch(closed: ToyRun) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{closed.store}/mlflow.db")
    run = client.get_run(closed.report.mlflow_run_id)
    (model,) = [client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    assert model.name == "task_specific onnx int8"
    folder = Path(urlsplit(model.artifact_location).path)
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8")
    assert "onnxruntime" in requirements
    assert "torch" not in requirements


def test_mlflow_shows_the_page(closed: ToyRun, written: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{closed.store}/mlflow.db")
    folder = client.download_artifacts(closed.report.mlflow_run_id, "report.html")
    assert Path(folder).read_text(encoding="utf-8") == written


def test_without_mlflow_there_is_still_a_page(
    distill: Distill, toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = distill("report", "--to", tmp_path / "page.html", "--quick", "--store", toy_run.store)
    assert code == 0
    assert "MLflow has no copy of the report" in err
    assert (tmp_path / "page.html").is_file()


def test_a_run_without_exports_has_the_models_in_torch(toy_run: ToyRun) -> None:
    assert [form.name for form in toy_run.report.shipping.forms] == ["teacher", "student"]
    assert list(toy_run.store.glob("cache/exports/*")) == []


def test_the_page_is_whole_small_and_alone(written: str) -> None:
    parser = Balanced()
    parser.feed(written)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)), "figures share one name space"
    assert len(written) < 1_000_000
    assert "script" not in parser.counts
    elsewhere = re.findall(r'(?:src|href)="(?!#|data:)[^"]+"|url\((?!#)[^)]+\)|@import', written)
    assert elsewhere == []


def test_it_says_first_whether_labels_alone_are_better(written: str) -> None:
    above = written[: written.index('<h2 id="')]
    assert re.search(r"labels alone", above)
    titles = re.findall(r'<h2 id="\w+">([^<]+)', written)
    assert titles == ["What you ship", "Stages", "Layer by layer", "Answers", "Data and origin"]


def test_the_table_begins_with_the_student_before_its_first_stage(written: str) -> None:
    cells = re.findall(r'<td class="text">(?:<b>)?([\w ]+)(?:</b>)?</td><td>([\d.–]+)', written)
    probes = dict(cells)
    names = list(probes)
    assert names.index("teacher") < names.index("before") < names.index("general")
    assert 0 < float(probes["before"]) <= 100


def test_the_calibration_has_the_export_in_8_bits(written: str) -> None:
    assert re.search(r"student, int8, error \d", written)


def test_every_picture_has_a_title_and_a_description(written: str) -> None:
    pictures = re.findall(r"<svg .*?</svg>", written, re.DOTALL)
    assert len(pictures) >= 8
    for picture in pictures:
        assert re.search(r"<title id=\"[^\"]+\">[^<]+</title><desc id=\"[^\"]+\">[^<]+</desc>", picture)
        assert "<text" in picture, "text stays text"


def test_a_quick_report_makes_no_export(distill: Distill, toy_run: ToyRun, tmp_path: Path) -> None:
    code, out, err = distill("report", "--to", tmp_path / "page.html", "--quick", "--store", toy_run.store)
    assert code == 0, err
    assert "the report of" in out
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "What you ship" in written
    assert "ONNX" not in written


def test_an_unknown_run_is_refused(distill: Distill, toy_run: ToyRun, tmp_path: Path) -> None:
    code, _, err = distill("report", "nothing", "--to", tmp_path / "page.html", "--store", toy_run.store)
    assert code == 2
    assert "nothing" in err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("bounds", "tone", "beginning"),
    [
        ((0.01, 0.05), "good", "Distillation helped: 3.0 points (+1.0 to +5.0) above labels alone."),
        ((-0.05, -0.01), "bad", "Labels alone are better: by 3.0 points (-5.0 to -1.0). Distillation cost accuracy."),
        ((-0.01, 0.02), "grey", "No difference from labels alone is shown: 0.5 points (-1.0 to +2.0) above."),
    ],
)
def test_the_verdict_follows_the_interval(
    bounds: tuple[float, float], tone: str, beginning: str, toy_run: ToyRun
) -> None:
    minus = Score(value=sum(bounds) / 2, low=bounds[0], high=bounds[1])
    compared = toy_run.report.model_copy(update={"minus_control": minus})
    older = toy_run.report.model_copy(update={"minus_control": None})
    nothing, measured = (Findings(score, {}, (), (), {}) for score in (None, minus))
    for found in (verdict(compared, nothing), verdict(older, measured)):
        assert found.tone == tone
        assert found.text.startswith(beginning)
    without = verdict(older, nothing)
    assert without.tone == "grey"
    assert "cannot say what distillation added" in without.text


def test_colours_of_ink_follow_the_page_and_ids_are_its_own() -> None:
    figure = new_figure(2.0, 2.0)
    axes = figure.subplots()
    axes.plot(np.arange(3), color=BLACK)
    svg = as_svg(figure, "one", "A & B", "a < b")
    assert "var(--ink)" in svg
    assert BLACK not in svg
    assert '<title id="one-title">A &amp; B</title><desc id="one-text">a &lt; b</desc>' in svg
    assert all(name.startswith("one-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert as_svg(figure, "one", "A & B", "a < b") == svg, "the same figure is the same text"
