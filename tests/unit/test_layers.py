"""Imports go one way, schemas <- stages <- pipeline, and schemas needs no heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "datasets", "accelerate", "prefect", "mlflow", "numpy"}
FORBIDDEN = {
    "schemas": {"stages", "pipeline", "tests"} | HEAVY,
    "stages": {"pipeline", "mlflow", "tests"},
    "pipeline": {"tests", "benchmarks"},
}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[0] if node.level else node.module or ""
            yield node.lineno, package.partition(".")[0]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_package_imports_one_above_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} holds no Python files"
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in files
        for line, name in imported(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_schemas_load_in_a_fresh_interpreter_without_any_heavy_library_and_fast() -> None:
    program = (
        "import importlib, pkgutil, sys, time\n"
        "began = time.process_time()\n"
        "import schemas\n"
        "for module in pkgutil.iter_modules(schemas.__path__):\n"
        "    importlib.import_module('schemas.' + module.name)\n"
        "print(time.process_time() - began)\n"
        f"print(*sorted(set(sys.modules) & {HEAVY!r}))\n"
    )
    # Processor time: it does not count what other tests on this machine take meanwhile.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, came_along = done.stdout.split("\n")[:2]
    assert came_along == ""
    assert float(seconds) < 1.0
