"""`distill verify`: every file of a checkpoint, or of an export, compared with its manifest."""

from __future__ import annotations

from pathlib import Path

from pipeline.export.manifest import is_export, open_export
from pipeline.store.checkpoints import open_checkpoint
from schemas.core.paths import local_path
from schemas.results.export import ExportManifest
from schemas.results.manifest import Manifest


def verified(folder: Path) -> tuple[str, Manifest | ExportManifest]:
    """Return the path and the manifest of a folder whose files all match it.

    Raises:
        CheckpointError: it is neither a checkpoint nor an export, or files are damaged, missing or not in the manifest.
    """
    path = local_path(folder, "CHECKPOINT")
    if is_export(path):
        return str(path), open_export(path)
    reference, manifest = open_checkpoint(folder)
    return reference.path, manifest
