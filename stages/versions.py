"""Versions of Python, of the libraries that decide about numbers, and of this project, for a checkpoint's manifest."""

from __future__ import annotations

import functools
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROJECT = "distill-flow"
_LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "safetensors")
_ROOT = Path(__file__).resolve().parents[1]


def installed_versions() -> dict[str, str]:
    """Return versions by name; the project's includes the commit if it runs from a checkout."""
    return dict(_versions())


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}
    commit = commit_of(_ROOT)
    versions[_PROJECT] = _version(_PROJECT) + (f"+{commit}" if commit else "")
    return tuple(versions.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def commit_of(root: Path) -> str | None:
    """Return the commit checked out in `root`, 40 digits; None if `root` is no checkout.

    Read from Git's files: Git need not be installed, and a checkout's settings can make it run programs.
    """
    try:
        folder = root / ".git"
        if folder.is_file():  # a further worktree
            folder = root / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return _commit(head)
        return _commit_of_reference(folder, head.removeprefix("ref:").strip())
    except (OSError, ValueError):
        return None


def _commit_of_reference(folder: Path, reference: str) -> str | None:
    common = folder / "commondir"
    folders = [folder]
    if common.is_file():
        folders.append(folder / common.read_text(encoding="utf-8").strip())
    for git_folder in folders:
        if (git_folder / reference).is_file():
            return _commit((git_folder / reference).read_text(encoding="utf-8"))
    for git_folder in folders:
        if not (git_folder / "packed-refs").is_file():
            continue
        for line in (git_folder / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {reference}"):
                return _commit(line.split()[0])
    return None


def _commit(text: str) -> str | None:
    text = text.strip()
    return text if len(text) >= 40 and set(text) <= set("0123456789abcdef") else None


def utc_now() -> str:
    """Return the current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
