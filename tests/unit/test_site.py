"""The documentation as a site: every link and anchor leads somewhere, and reading it needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytest.importorskip("sphinx", reason="make install adds it")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert {tmp_path / "index.html", tmp_path / "docs" / "reference" / "recipe.html"} <= set(pages)
    for path, text in pages.items():
        loaded = re.findall(r"<(?:script|img|source|iframe)[^>]*\ssrc=\"([^\"]*)|<link[^>]*stylesheet[^>]*>", text)
        assert [address for address in loaded if address.startswith(("http", "//"))] == [], path
        assert not re.search(r"<link[^>]*href=\"(?:http|//)[^>]*stylesheet", text), path
