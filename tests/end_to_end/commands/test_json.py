"""With `--json` a command prints one JSON document on stdout and everything else on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Distill, ToyRun

pytestmark = pytest.mark.usefixtures("prefect")


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not valid JSON")


def one_document(distill: Distill, *arguments: str | Path) -> object:
    code, out, err = distill(*arguments, "--json")
    assert code == 0, err
    # json.loads refuses text before or after the document, but accepts NaN and Infinity.
    return json.loads(out, parse_constant=refuse_constant)


def test_commands_print_one_json_document(distill: Distill, toy_run: ToyRun) -> None:
    last = toy_run.report.rows[5].checkpoint
    assert last is not None
    store = ("--store", toy_run.store)
    task = toy_run.recipe.parent / "in" / "task"
    keys = {
        ("recipes",): "name",
        ("show", toy_run.recipe): "stages",
        ("plan", toy_run.recipe, *store): "stages",
        ("compare", *store): "rows",
        ("evaluate", last.path, "--task", task, *store): "models",
        ("verify", last.path): "files",
        ("sync", *store): "runs",
    }
    for arguments, key in keys.items():
        document = one_document(distill, *arguments)
        first = document[0] if isinstance(document, list) else document
        assert key in first, arguments
    # If the server was always available, nothing is pending.
    assert document == {**document, "runs": [], "failure": None}


def test_run_prints_one_json_document(distill: Distill, toy_run: ToyRun) -> None:
    code, out, err = distill("run", toy_run.recipe, "--store", toy_run.store, "--json")
    assert code == 0, err
    assert "train, 2 classes: bad (80), good (80)" in err
    report = json.loads(out, parse_constant=refuse_constant)
    assert [row["name"] for row in report["rows"]] == [row.name for row in toy_run.report.rows]
    assert one_document(distill, "compare", report["run"], "--store", toy_run.store) == report


def test_a_mistake_leaves_stdout_empty(distill: Distill, tmp_path: Path) -> None:
    for arguments in (
        ("plan", "quickstat"),
        ("run", "quickstart", "--from", "all"),
        ("compare", "--store", tmp_path),
        ("verify", tmp_path),
    ):
        code, out, err = distill(*arguments, "--json")
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ")
