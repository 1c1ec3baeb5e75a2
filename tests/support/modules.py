"""Modules of the product by name."""

from __future__ import annotations

from pathlib import Path

from tests.support.paths import ROOT

LAYERS = ("schemas", "stages", "pipeline")


def modules() -> dict[str, Path]:
    """Map the dotted name of every module of the product to its file."""
    paths = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            paths[name.removesuffix(".__init__")] = path
    return paths
