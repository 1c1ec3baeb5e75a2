"""Differences between a stage and the store's nearest checkpoint, which explain why the stage has to be run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.planning.outline import OutlinedStage
from pipeline.store.checkpoints import CheckpointStore
from schemas.core.regular_files import read_regular
from stages.identity import stage_identity
from stages.storage.sealed_folder import MANIFEST

# A store may hold thousands of a stage's checkpoints.
_NEWEST = 50
_LISTED = 4
_DIGESTS = {
    "data": "the data changed",
    "parent": "the stage before it changed",
    "pretrained": "the pretrained model changed",
    "teacher": "its teacher changed",
}


def difference_from_store(stage: OutlinedStage, store: CheckpointStore) -> str | None:
    """Describe how a stage differs from the nearest checkpoint of that stage.

    Returns:
        A phrase that continues "to run, "; None if the store has the stage itself, or no checkpoint that is like it.
    """
    if store.folder(stage.config.name, stage.digest).exists():
        return None
    if not stage.is_known:
        return "unless the store has it for the teacher that is still to be chosen"
    wanted = dict(_leaves(stage_identity(stage.config, stage.parent)))
    candidates = [(_differences(wanted, stored), name) for name, stored in _stored(stage, store)]
    if not candidates:
        return None
    differences, name = min(candidates, key=lambda candidate: len(candidate[0]))
    if _DIGESTS["data"] in differences and len(differences) > _LISTED:
        return None  # a stage of another recipe, to which a comparison explains nothing
    listed = "; ".join(differences[:_LISTED])
    more = f"; and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
    return f"unlike {name}: {listed}{more}"


def _stored(stage: OutlinedStage, store: CheckpointStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the identities of the stage's newest checkpoints by folder; unreadable ones are skipped."""
    folders = []
    for folder in (store.root / "checkpoints").glob(f"{stage.config.name}-*"):
        try:
            folders.append(((folder / MANIFEST).stat().st_mtime_ns, folder))
        except OSError:
            continue
    for _, folder in sorted(folders, reverse=True)[:_NEWEST]:
        try:
            manifest = json.loads(read_regular(folder / MANIFEST))
        except (OSError, ValueError, RecursionError):
            continue
        identity = manifest.get("identity") if isinstance(manifest, dict) else None
        if isinstance(identity, dict) and identity:
            yield folder.name, dict(_leaves(identity))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every plain value with its dotted path; an empty list or mapping is a plain value."""
    items: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list | tuple):
        items = dict(enumerate(value))
    if not items:
        yield path, value
    for name, item in items.items():
        yield from _leaves(item, f"{path}.{name}" if path else str(name))


def _differences(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    lines: dict[str, None] = {}
    for path in {**wanted, **stored}:
        if wanted.get(path) != stored.get(path) or (path in wanted) != (path in stored):
            values = f"{path} is {_shown(wanted.get(path))} instead of {_shown(stored.get(path))}"
            lines[_DIGESTS.get(path.split(".")[0], values)] = None
    return [*lines]


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
