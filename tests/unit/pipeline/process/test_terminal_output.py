"""Third-party text is printed literally: no markup, formulas, control sequences or encoding errors."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.process.settings import read_settings
from pipeline.process.terminal import safe, say
from pipeline.progress.display import Display
from pipeline.progress.lines import Lines
from pipeline.progress.parts import RunProgress
from pipeline.reporting.console_reports import print_garbage
from pipeline.reporting.loss_curves import as_png, loss_curves, new_figure
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.store.garbage import Garbage, Piece
from pipeline.tracking.run_files import Point
from schemas.core.errors import ConfigError
from tests.support.paths import ROOT

ODD = ["runs[v2]", "a[/b]", "[bold]x[/bold]", "[link=https://example.com]x", r"a\[b]", "q$usd_$x"]


def console(width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def printed(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_brackets_are_printed_literally(text: str) -> None:
    out = console()
    say(out, f"store: {text}")
    out.print(as_terminal(ResultTable((Column("", is_text=True),), (TableRow((text,)),))))
    Lines(lambda line: say(out, line)).note(text)
    progress = RunProgress([Display(out)])
    progress.note(text)
    progress.expect({text: 0.0})
    progress.close()
    print_garbage(
        Garbage(store=text, pieces=(Piece(path=text, size=1, age=1.0, reason=text),), removed=False, older_than=1.0),
        out,
    )
    assert printed(out).count(text) >= 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("title\x1b]0;x\x07", r"title\x1b]0;x\x07"),
        ("c1 \x9b31m", r"c1 \x9b31m"),
        ("over\rwritten", r"over\rwritten"),
        ("turned \u202e round", r"turned \u202e round"),
        ("two\nlines\tand more", "two\nlines\tand more"),
        ("क्‍ष 👩‍🔬 ❤️", "क्‍ष 👩‍🔬 ❤️"),
    ],
)
def test_escape_sequences_are_not_sent_to_the_terminal(text: str, shown: str) -> None:
    assert safe(text) == shown
    out = console()
    say(out, text)
    assert "\x1b" not in printed(out)
    assert "\x9b" not in printed(out)


def test_dollars_in_names_are_not_drawn_as_formulas() -> None:
    points = [Point(step, step, {"train/loss": 1.0 + step, "train/x$_$": 2.0}) for step in (1, 2)]
    for title in (r"q$usd_$x", r"$\frac{$", "a$b", "\x1b[2J"):
        assert loss_curves(points, title)
        figure = new_figure(2, 2)
        figure.suptitle(title)
        assert as_png(figure)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_without_some_characters_causes_no_error(encoding: str, tmp_path: Path) -> None:
    program = (
        "from pipeline.process.terminal import make_streams_lenient, say\n"
        "from rich.console import Console\n"
        "make_streams_lenient()\n"
        "say(Console(), 'a – b × c ± 1 … 難 \\udcff')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    output = done.stdout.decode(encoding)
    if encoding == "ascii":
        assert output.startswith(r"a - b x c +- 1 ... \u96e3 \udcff")
    assert output.endswith("\\udcff\n")


def test_a_store_path_that_changes_the_database_url_is_refused(tmp_path: Path) -> None:
    for name in ("a?b", "a%20b"):
        with pytest.raises(ConfigError, match=r"rename the folder"):
            read_settings(tmp_path / name, {})
    elsewhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert read_settings(tmp_path / "a?b", elsewhere).store == tmp_path / "a?b"
    assert read_settings(tmp_path / "a#b 100%", {}).tracking_uri.endswith("/a#b 100%/mlflow.db")
