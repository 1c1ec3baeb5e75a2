"""Signals before the command line has started, and after it has finished its work."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Send the process a signal while it imports the first library of the command line, or at exit.
PROGRAM = """
import atexit, os, sys

class Presser:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            os.kill(os.getpid(), {number})

if {early}:
    sys.meta_path.insert(0, Presser())
else:
    atexit.register(lambda: os.kill(os.getpid(), {number}))
sys.argv = ["distill", *{arguments}]
from pipeline.program import program
program()
"""


def run(number: int, *arguments: str, early: bool) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(number=int(number), early=early, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_imports_ends_the_program_with_one_line(number: int) -> None:
    ended = run(number, "recipes", early=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: stopped before anything had begun\n"


@pytest.mark.parametrize(("arguments", "code"), [(["show", "quickstart"], 0), (["show", "quikstart"], 2)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_does_not_change_the_exit_code(arguments: list[str], code: int, number: int) -> None:
    ended = run(number, *arguments, early=False)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ("teacher" in ended.stdout) == (code == 0)


CLEARED = """
import sys, tempfile

class Maker:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            self.folder = tempfile.TemporaryDirectory(dir={folder!r})

sys.meta_path.insert(0, Maker())
sys.argv = ["distill", "show", "quickstart"]
from pipeline.program import program
program()
"""


def test_final_output_is_flushed_and_temporary_files_are_removed(tmp_path: Path) -> None:
    program = CLEARED.format(folder=str(tmp_path))
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert shown.returncode == 0
    assert b"teacher_cache_gigabytes: 0.0" in shown.stdout.rstrip().splitlines()[-1]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_the_shell_closed_is_no_error(closed: str) -> None:
    command = f"{sys.executable} -m pipeline show quickstart {closed}"
    ended = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ("teacher" in ended.stdout) == (">&-" not in closed.split())
