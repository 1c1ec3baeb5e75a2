"""The wheel contains every room: it is built, installed outside the checkout, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.modules import LAYERS, modules
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree's sources, built from a copy to leave no files next to them."""
    source = tmp_path_factory.mktemp("source") / "project"
    source.mkdir()
    for layer in LAYERS:
        shutil.copytree(ROOT / layer, source / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = tmp_path_factory.mktemp("built")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(built), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_exactly_our_modules_and_their_data(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in modules().values()}
    data = [path for layer in LAYERS for kind in ("*.yaml", "*.j2") for path in (ROOT / layer).rglob(kind)]
    wanted |= {str(path.relative_to(ROOT)) for path in data}
    wanted |= {f"{layer}/py.typed" for layer in LAYERS}
    assert {name for name in held if ".dist-info/" not in name} == wanted


def test_an_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def distill(*arguments: str) -> str:
        program = (
            "import sys, pipeline, schemas, stages\n"
            f"for package in (pipeline, schemas, stages): assert package.__file__.startswith({str(target)!r})\n"
            f"sys.argv = ['distill', *{list(arguments)!r}]\n"
            "from pipeline.program import program\n"
            "program()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = {path.stem for path in (ROOT / "pipeline" / "recipes").glob("*.yaml")}
    assert names <= set(distill("recipes").split())
    assert "name: quickstart" in distill("show", "quickstart")
