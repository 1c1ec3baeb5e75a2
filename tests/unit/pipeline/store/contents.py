"""Checkpoints for tests of the store, and their age."""

from __future__ import annotations

import os
import time

from pipeline.store.checkpoints import CheckpointStore
from schemas.results.manifest import CheckpointRef
from tests.support.manifests import manifest_of, write_model

DAY = 86400.0


TEACHER, GENERAL, TASK, LEFT = (letter * 64 for letter in "abcd")


def commit(store: CheckpointStore, digest: str, *, parent: str | None = None) -> CheckpointRef:
    manifest = manifest_of(digest, parent_digest=parent)
    return store.writer("teacher", digest).commit(manifest, write_model)


def make_old(store: CheckpointStore, days: float = 30.0) -> None:
    """Set the modification time of everything in the store to `days` ago."""
    then = time.time() - days * DAY
    for path in store.root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)
