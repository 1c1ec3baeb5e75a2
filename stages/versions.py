"""What a checkpoint was made with: versions of Python, of the libraries that decide about numbers, of this project."""

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
    """Versions by name; the project's has the commit of its checkout, where it runs from one."""
    return dict(_versions())


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}
    commit = commit_of(_ROOT)
    found[_PROJECT] = _version(_PROJECT) + (f"+{commit}" if commit else "")
    return tuple(found.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def commit_of(root: Path) -> str | None:
    """The commit that is checked out in `root`, 40 digits; None where it is no checkout.

    Read from Git's files: Git itself need not be there, and may be told by a checkout's settings to run programs.
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
    places = [folder]
    if common.is_file():
        places.append(folder / common.read_text(encoding="utf-8").strip())
    for place in places:
        if (place / reference).is_file():
            return _commit((place / reference).read_text(encoding="utf-8"))
    for place in places:
        if not (place / "packed-refs").is_file():
            continue
        for line in (place / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {reference}"):
                return _commit(line.split()[0])
    return None


def _commit(text: str) -> str | None:
    text = text.strip()
    return text if len(text) >= 40 and set(text) <= set("0123456789abcdef") else None


def utc_now() -> str:
    """The time in UTC by ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
