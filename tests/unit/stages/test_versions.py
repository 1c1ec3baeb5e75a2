"""Versions recorded in a checkpoint's manifest."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy
import pytest
import torch
import transformers

from stages import versions
from stages.versions import commit_of, installed_versions, utc_now


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    completed = subprocess.run(("git", *who, *words), cwd=folder, check=True, capture_output=True, text=True)
    return completed.stdout.strip()


def test_every_library_that_affects_numbers_is_listed() -> None:
    versions = installed_versions()
    # Wheels built for CUDA say so in `__version__` ("2.15.0+cu132"), not in their metadata.
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions["transformers"] == transformers.__version__
    assert versions["numpy"] == numpy.__version__
    assert {"python", "tokenizers", "datasets", "safetensors"} <= set(versions)
    assert versions["distill-flow"][0].isdecimal()
    assert all(versions.values())


def test_the_time_is_utc_by_iso_8601() -> None:
    now = datetime.fromisoformat(utc_now())
    assert now.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - now) < timedelta(seconds=5)


def test_the_commit_is_read_from_every_layout_of_a_git_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert commit_of(root) is None
    git(root, "init", "-q", "-b", "main")
    assert commit_of(root) is None
    git(root, "commit", "-q", "--allow-empty", "-m", "one")
    commit = git(root, "rev-parse", "HEAD")
    assert commit_of(root) == commit
    git(root, "pack-refs", "--all")
    assert commit_of(root) == commit
    git(root, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    assert commit_of(tmp_path / "tree") == commit
    git(root, "checkout", "-q", "--detach")
    assert commit_of(root) == commit


def test_a_folder_outside_a_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert commit_of(tmp_path) is None
    monkeypatch.setattr(versions, "_ROOT", tmp_path)
    versions._versions.cache_clear()
    assert "+" not in installed_versions()["distill-flow"]
    versions._versions.cache_clear()
