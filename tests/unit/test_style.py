"""Sizes of files and functions, and the first words of docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PRODUCT = sorted(
    path for layer in ("schemas", "stages", "pipeline", "benchmarks") for path in (ROOT / layer).rglob("*.py")
)
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 45
NO_BEGINNINGS = ("What ", "Whether ", "How ", "Which ", "Where ", "It ")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, including those of attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short_and_docstrings_begin_with_their_subject(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: int(node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}
    assert text.count("\n") <= MOST_LINES
    assert [line for line, docstring in docstrings(tree) if docstring.startswith(NO_BEGINNINGS)] == []
