"""Mistakes in a recipe or its data are reported before torch, transformers or Prefect are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.toys import toy_recipe_dict

_PROGRAM = """
import contextlib, io, json, sys
from pipeline.command_line import main
answers = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["distill", *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    heavy = [name for name in ("torch", "transformers", "prefect", "mlflow") if name in sys.modules]
    answers.append([code, out.getvalue() + err.getvalue(), heavy])
print(json.dumps(answers))
"""


def answers(*commands: list[str]) -> list[tuple[int, str, list[str]]]:
    """Return exit code, output and heavy imports of commands, run one after the other in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [(code, " ".join(output.split()), heavy) for code, output, heavy in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return toy_recipe_dict(tmp_path_factory.mktemp("in"))


def write(folder: Path, content: dict[str, Any]) -> str:
    path = folder / f"r{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_wrong_data_is_reported_before_anything_heavy_is_imported(recipe: dict[str, Any], tmp_path: Path) -> None:
    task = recipe["task"]
    misspelt = write(tmp_path, recipe | {"task": task | {"text": "text_x"}})
    missing = write(tmp_path, recipe | {"task": task | {"train": str(tmp_path / "none.jsonl")}})
    corpus = recipe["general_corpus"] | {"sources": [str(tmp_path / "none.txt")]}
    no_corpus = write(tmp_path, recipe | {"general_corpus": corpus})
    several = {"a": task, "b": task | {"label": "lable"}}
    two = write(tmp_path, {k: v for k, v in recipe.items() if k != "task"} | {"tasks": several})
    store = ["--store", str(tmp_path / "store")]
    wrong = [misspelt, missing, no_corpus, two]
    told = answers(*(["run", path, *store] for path in wrong), *(["plan", path, *store] for path in wrong))
    for code, output, heavy in told:
        assert code == 2, output
        assert output.count("error:") == 1
        assert heavy == []
    for number, expected in enumerate(("text_x", "none.jsonl", "none.txt", "task b: ")):
        assert expected in told[number][1]
        assert told[number][1] == told[number + len(wrong)][1]


def test_commands_that_train_nothing_import_nothing_heavy(tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "store")]
    told = answers(
        ["recipes"],
        ["show", "quickstart"],
        ["schema"],
        ["show", "quikstart"],
        ["run", "none.yaml"],
        ["run", "quickstart", "--set", "student.shape.num_layers=x"],
        ["compare", *store],
        ["gc", *store],
        ["verify", str(tmp_path)],
    )
    assert [code for code, _, _ in told] == [0, 0, 0, 2, 2, 2, 2, 0, 2]
    assert [heavy for _, _, heavy in told] == [[]] * len(told)
