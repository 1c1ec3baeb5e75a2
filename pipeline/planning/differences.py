"""Why a stage has to be made although one like it is there: what differs, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.planning.outline import OutlinedStage
from pipeline.store.checkpoints import CheckpointStore
from schemas.core.regular_files import read_regular
from stages.identity import stage_identity
from stages.storage.sealed_folder import MANIFEST

# The newest ones of a stage; a store may hold thousands.
_LOOKED_AT = 50
_NAMED = 4
_DIGESTS = {
    "data": "the data is other",
    "parent": "the stage before it is another",
    "pretrained": "the pretrained model is another",
    "teacher": "its teacher is another",
}


def what_is_different(stage: OutlinedStage, store: CheckpointStore) -> str | None:
    """How a stage differs from the checkpoint of that stage that is nearest to it.

    Returns:
        Words that go on after "to run, "; None where the stage itself is there, or none like it is.
    """
    if store.folder(stage.config.name, stage.digest).exists():
        return None
    if not stage.is_known:
        return "unless it is there for the teacher that is still to be chosen"
    wanted = dict(_leaves(stage_identity(stage.config, stage.parent)))
    found = [(_differences(wanted, kept), name) for name, kept in _kept(stage, store)]
    if not found:
        return None
    differences, name = min(found, key=lambda each: len(each[0]))
    named = "; ".join(differences[:_NAMED])
    more = f"; and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    return f"unlike {name}: {named}{more}"


def _kept(stage: OutlinedStage, store: CheckpointStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the newest checkpoints of that stage cover, by folder; those that cannot be read say nothing here."""
    found = []
    for folder in (store.root / "checkpoints").glob(f"{stage.config.name}-*"):
        try:
            found.append(((folder / MANIFEST).stat().st_mtime_ns, folder))
        except OSError:
            continue
    for _, folder in sorted(found, reverse=True)[:_LOOKED_AT]:
        try:
            manifest = json.loads(read_regular(folder / MANIFEST))
        except (OSError, ValueError, RecursionError):
            continue
        identity = manifest.get("identity") if isinstance(manifest, dict) else None
        if isinstance(identity, dict) and identity:
            yield folder.name, dict(_leaves(identity))


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value by its dotted place; an empty list or mapping is one."""
    inside: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        inside = value
    elif isinstance(value, list | tuple):
        inside = dict(enumerate(value))
    if not inside:
        yield place, value
    for name, each in inside.items():
        yield from _leaves(each, f"{place}.{name}" if place else str(name))


def _differences(wanted: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for place in {**wanted, **kept}:
        mine, theirs = wanted.get(place), kept.get(place)
        if mine == theirs and (place in wanted) == (place in kept):
            continue
        words = _DIGESTS.get(place.split(".")[0]) or f"{place} is {_shown(mine)}, there {_shown(theirs)}"
        if words not in found:
            found.append(words)
    return found


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
