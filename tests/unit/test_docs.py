"""Names in the documentation exist: files, links, modules, tests, functions and recipe keys."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from schemas.recipe.stage import StageName
from tests.support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "docker" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
STAGE_NAMES = get_args(StageName)
FOLDERS = ("schemas", "stages", "pipeline", "benchmarks", "tests", "docs", "docker")
WRITTEN_BY_USERS = {"docker/.env"}


def file_names(text: str) -> set[str]:
    """Return paths below the project's folders, and names of test files."""
    paths = re.findall(rf"(?<![\w./…~-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]", text)
    return {*paths, *re.findall(r"(?<![\w/])test_\w+\.py", text)}


@cache
def source_words() -> frozenset[str]:
    """Return all identifiers in product files, recipes and tests, and the names of these files."""
    files = [path for folder in FOLDERS[:5] for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    texts = (f"{path.stem}\n{path.read_text('utf-8')}" for path in files)
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = {name for name in file_names(text) if not (ROOT / name).exists()} - tests - WRITTEN_BY_USERS
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing |= {link for link in links if not (page.parent / link).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_functions_and_keys_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = set()
    for name in re.findall(rf"(?:python -m |`)((?:{'|'.join(FOLDERS[:5])})(?:\.\w+)+)", text):
        *module, last = name.split(".")
        if name.split(".")[1] in STAGE_NAMES:  # a value of a recipe, stages.general.training
            continue
        path = ROOT.joinpath(*module)
        is_module = (path / f"{last}.py").is_file() or (path / last / "__init__.py").is_file()
        file = path.with_suffix(".py")
        if not is_module and not (file.is_file() and re.search(rf"\b(def|class) {last}\b", file.read_text("utf-8"))):
            missing.add(name)
    quoted = " ".join(re.findall(r"`([^`\n]+)`", text))
    words = set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", quoted))
    missing |= words - source_words()
    assert not missing
