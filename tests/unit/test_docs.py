"""Names in the documentation exist: files, links, anchors, modules, tests, functions, recipe keys and commands.

tests/end_to_end/commands/test_documentation.py runs what is shown.
"""

from __future__ import annotations

import ast
import re
import runpy
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from benchmarks.evidence.pages import pages as evidence_pages
from benchmarks.evidence.records import read_all
from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.loading.load import load_recipe
from schemas.recipe.stage import StageName
from tests.documentation import PAGES, anchors, blocks, commands, title
from tests.support.paths import ROOT

STAGE_NAMES = get_args(StageName)
FOLDERS = ("schemas", "stages", "pipeline", "benchmarks", "tests", "docs", "docker")
WRITTEN_BY_USERS = {"docker/.env", "pipeline/recipes/NAME.yaml"}


def file_names(text: str) -> set[str]:
    """Return paths below the project's folders, and names of test files."""
    paths = re.findall(rf"(?<![\w./…~-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]", text)
    return {*paths, *re.findall(r"(?<![\w/])test_\w+\.py", text)}


@cache
def source_words() -> frozenset[str]:
    """Return all identifiers in product files, recipes, templates and tests, and the names of these files."""
    files = [path for folder in FOLDERS[:5] for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    files += (ROOT / "docker").rglob("*.json")
    texts = (f"{path.stem}\n{path.read_text('utf-8')}" for path in files)
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_files_and_links_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = {name for name in file_names(text) if not (ROOT / name).exists()} - tests - WRITTEN_BY_USERS
    links = [(link or page.name, anchor) for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", text)]
    missing |= {link for link, _ in links if not (page.parent / link).exists()}
    assert not missing
    to_pages = [(page.parent / link, anchor) for link, anchor in links if anchor and link.endswith(".md")]
    assert [f"{link}#{anchor}" for link, anchor in to_pages if anchor not in anchors(link)] == []


@pytest.mark.parametrize("page", PAGES, ids=title)
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


def test_the_reference_is_that_of_the_schemas_commands_and_docstrings() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    kept = {path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "reference").iterdir()}
    assert kept == written, "run: make reference"


def test_the_tables_of_results_are_those_of_the_files_that_benchmarks_left() -> None:
    for page, text in evidence_pages(read_all()).items():
        assert page.read_text("utf-8") == text, "run: python -m benchmarks.evidence"


def test_readme_is_short_and_keeps_its_marks() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    for page in (text, (ROOT / "docs" / "quickstart.md").read_text("utf-8")):
        assert page.count("<!-- quickstart:begin -->") == page.count("<!-- quickstart:end -->") == 1
    assert text.index("<!-- results:begin -->") < text.index("<!-- results:end -->")


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_shown_commands_have_these_options_and_change_these_keys(page: Path) -> None:
    """Of `distill` and of modules run by Python; other programs are those of their documentation."""
    import typer.main

    from pipeline.command_line import app

    distill = typer.main.get_command(app)
    for block in blocks(page, "sh", "bash"):
        for program, *words in commands(block):
            if Path(program).name == "distill" and words and not words[0].startswith("-"):
                context = distill.make_context("distill", list(words), resilient_parsing=True)
                name, command, rest = distill.resolve_command(context, list(words))  # type: ignore[attr-defined]
                parser = command.make_parser(command.make_context(name, [], parent=context, resilient_parsing=True))
                values, _, _ = parser.parse_args(rest)
                if values.get("recipe") in shipped_names():
                    read_recipe(values["recipe"], values.get("changes") or [])
            if program == "make":
                assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), words
            if Path(program).name == "prefect" and words[:2] == ["deployment", "run"]:
                assert words[2].removeprefix("distill-flow/") in shipped_names(), words


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_shown_programs_and_recipes_can_be_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block.text)
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(re.sub(r"^\s*…$", "", block.text, flags=re.MULTILINE))
        if {"name", "teacher", "stages"} <= set(content):
            (tmp_path / "recipe.yaml").write_text(block.text, "utf-8")
            assert load_recipe(str(tmp_path / "recipe.yaml"), recipes_folder=tmp_path).name == content["name"]
