"""Help, completion, and the libraries that quick commands must not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.command_line import COMMANDS, app
from tests.support.command_line import ToyRun
from tests.support.paths import ROOT

NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]
HEAVY = ("accelerate", "datasets", "matplotlib", "mlflow", "pandas", "prefect", "sklearn", "torch", "transformers")


def help_of(*arguments: str) -> list[str]:
    shown = CliRunner().invoke(app, [*arguments, "-h"], prog_name="distill", env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    return shown.output.splitlines()


def test_the_first_help_fits_80_columns_and_leads_from_the_first_command_to_the_rare_ones() -> None:
    lines = help_of()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert text.index("Start here") < text.index("distill run quickstart") < text.index("Housekeeping")
    positions = [text.index(f"│ {name} ") for name in NAMES]
    assert positions == sorted(positions)
    # One line each: nothing wraps.
    assert all(next(line for line in lines if line.startswith(f"│ {name} ")).rstrip(" │")[-1] == "." for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_speaks_the_words_of_the_field(name: str) -> None:
    lines = help_of(name)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for word in ("<", "{", "TEXT [", "INTEGER"):
        assert word not in text.partition("mapping as in")[0], text
    assert "--help" in text
    for line in lines:
        if line.strip().startswith("distill "):
            assert line.split()[1] in NAMES


def test_the_version_names_commit_and_libraries() -> None:
    shown = CliRunner().invoke(app, ["--version"], prog_name="distill")
    assert shown.exit_code == 0
    assert shown.output.startswith("distill 0.")
    assert "Python 3." in shown.output


QUICK = """
import io, json, sys
from contextlib import redirect_stdout, redirect_stderr
from pipeline.command_line import main

codes = []
for arguments, allowed in json.loads(sys.argv[1]):
    sys.argv = ["distill", *arguments]
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            main()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
    came = sorted((set(sys.modules) & set({heavy!r})) - set(allowed))
    assert not came, f"{{arguments}} loads {{came}}"
print(json.dumps(codes))
"""


def test_quick_commands_load_no_heavy_library(toy_run: ToyRun, tmp_path: Path) -> None:
    store, run = str(toy_run.store), toy_run.report.run
    checkpoint = toy_run.report.rows[2].checkpoint
    assert checkpoint is not None
    recipe = str(toy_run.recipe)
    expected: dict[tuple[str, ...], int] = {
        ("--help",): 0,
        ("--version",): 0,
        ("recipes",): 0,
        ("show", "quickstart"): 0,
        ("schema",): 0,
        ("runs", "--store", store): 0,
        ("compare", "--store", store): 0,
        ("compare", run, run, "--store", store): 0,
        ("verify", checkpoint.path): 0,
        ("gc", "--store", store): 0,
        ("run", "quikstart"): 2,
        ("run", recipe, "--set", "stages.general.batch=3"): 2,
        ("plan", recipe, "--set", "student.layers=3"): 2,
        ("run", recipe, "--from", "generl"): 2,
    }
    # A misspelt column is found by reading the rows, before Prefect's server starts.
    misspelt = ("run", recipe, "--set", "task.text=reviews", "--store", str(tmp_path / "store"))
    calls = [*((arguments, ()) for arguments in expected), (misspelt, ("datasets", "pandas"))]
    expected[misspelt] = 2
    program = QUICK.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program, json.dumps(calls)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(expected.values())


COMPLETE = """
eval "$(distill --show-completion)"
complete -p distill >&2
for line in "distill pl" "distill run quick" "distill run my" "distill run quickstart --from task_s" \
        "distill compare toy-1 --store {store} toy-"; do
    COMP_WORDS=($line); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
    _distill_completion distill
    echo "${{COMPREPLY[@]}}"
done
"""


def test_bash_completes_commands_recipes_files_stages_and_runs(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "distill"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pipeline "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "store" / "runs").mkdir(parents=True)
    (tmp_path / "store" / "runs" / "toy-2.json").touch()
    (tmp_path / "my.yaml").touch()
    (tmp_path / "my.csv").touch()
    script = tmp_path / "complete.sh"
    script.write_text(COMPLETE.format(store="store"), encoding="utf-8")
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["plan", "quickstart", "my.yaml", "task_specific", "toy-2"]
