"""The manifest of an export, read and compared with the files beside it; torch is not imported."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from schemas.core.errors import CheckpointError
from schemas.core.regular_files import read_regular
from schemas.results.export import EXPORT, ExportManifest
from stages.storage.sealed_folder import differences, files_in


def is_export(folder: Path) -> bool:
    """Return whether a folder was written by `distill export`."""
    return (folder / EXPORT).is_file()


def read_manifest(folder: Path) -> ExportManifest:
    """Return the manifest of an export; no file is compared with it.

    Raises:
        OSError: there is none.
        ValueError: it is no manifest.
    """
    return ExportManifest.model_validate_json(read_regular(folder / EXPORT))


def open_export(folder: Path, needed: Collection[str] | None = None) -> ExportManifest:
    """Return the manifest of an export, after comparing its files with it by size and SHA-256.

    Args:
        folder: the export.
        needed: the files to compare, and the ONNX files; None for all, and none may be there besides.

    Raises:
        CheckpointError: the manifest cannot be read, or files are damaged, missing or not in it.
    """
    path = folder / EXPORT
    try:
        manifest = read_manifest(folder)
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as an export's manifest ({reason}); export again") from None
    wanted = {*needed, *(model.file for model in manifest.models)} if needed is not None else {*manifest.files}
    problems = [f"{name} is not in its manifest" for name in sorted(wanted - manifest.files.keys())]
    problems += differences(
        folder, {name: entry for name, entry in manifest.files.items() if name in wanted}, content=True
    )
    if needed is None:
        extra = {*files_in(folder)} - manifest.files.keys() - {EXPORT}
        problems += [f"{name} is not in its manifest" for name in sorted(extra)]
    if problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}; export again")
    return manifest
