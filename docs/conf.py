"""The documentation as a site: `make docs`. It is built from the files as they are in git, and needs no network.

Sphinx with MyST and Furo: pages stay plain Markdown, links and anchors are checked, and nothing is loaded from others'
servers when the site is read.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("install", "quickstart", "own-model", "concepts", "glossary"),
    "Use": ("recipes", "tasks", "watching", "resume", "stores", "scaling", "deploy", "predict", "python"),
    "Servers": ("mlflow", "prefect", "docker/README"),
    "Help": ("troubleshooting",),
    "Reference": ("reference/recipe", "reference/commands", "reference/python"),
    "Evidence": ("results", "methods", "performance", "reliability", "security"),
    "Project": ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"),
}
"""Pages in the order of the sidebar: of docs/, or of the project's folder."""

project = "distill-flow"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docker/README.md", "docs/**"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["misc.highlighting_failure"]
nitpicky = True
smartquotes = False
html_theme = "furo"
html_title = f"distill-flow {version}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def _with_sidebar(_app: Sphinx, name: str, source: list[str]) -> None:
    """Add the sidebar's lists to the first page; in the file they would be shown as code on other sites."""
    if name != root_doc:
        return
    for section, pages in SECTIONS.items():
        found = [page for name in pages for page in (name, f"docs/{name}") if (ROOT / f"{page}.md").is_file()]
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {section}\n\n" + "\n".join(found) + "\n```\n"


def _with_start(app: Sphinx, error: Exception | None) -> None:
    """Lead index.html, which servers and people open, to the first page."""
    if error is None:
        text = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=README.html">'
        Path(app.outdir, "index.html").write_text(f"{text}<title>{project}</title>\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect both."""
    app.connect("source-read", _with_sidebar)
    app.connect("build-finished", _with_start)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
