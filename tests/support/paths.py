"""Folders of the checkout that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root."""
RECIPES = ROOT / "pipeline" / "recipes"
"""The shipped recipes."""
