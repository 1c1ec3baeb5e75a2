"""Tasks by name, from `catalogue.yaml` beside this file: where the hub has them, their columns, labels and scores."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from schemas.core.metrics import MetricName, metrics_of
from schemas.core.wording import suggestion

PATH = Path(__file__).with_suffix(".yaml")
_UNGROUPED = "ungrouped"


@dataclass(frozen=True)
class CatalogueTask:
    """A task that the hub publishes."""

    mapping: dict[str, Any]
    """The task as a recipe would write it in full."""
    metrics: tuple[MetricName, ...]
    """The scores that the benchmark goes by, the main one first."""
    confirmed: str
    """Method by which the entry was checked."""


@dataclass(frozen=True)
class Catalogue:
    """All tasks known by name."""

    tasks: dict[str, CatalogueTask]
    """By name, in the order of the file."""
    not_ready: dict[str, str]
    """Names that are known but do not suffice to read the data, each with the reason."""
    groups: dict[str, tuple[str, ...]]
    """Names that may follow a prefix such as `glue/`, by that prefix."""
    aliases: dict[str, str]
    """Names by every form in which they are recognised, without case, hyphens and underscores."""


@cache
def catalogue() -> Catalogue:
    """The catalogue, read at the first call."""
    read = Catalogue({}, {}, {}, {})
    for group, content in yaml.safe_load(PATH.read_text(encoding="utf-8")).items():
        common, not_ready = content.get("common", {}), content.get("not_ready", {})
        for name, fields in content["tasks"].items():
            entry = {"kind": "hub", **common, **fields}
            read.aliases.update({_squeezed(alias): name for alias in entry.pop("aliases", ())})
            metrics, confirmed = tuple(entry.pop("metrics", ("accuracy",))), entry.pop("confirmed")
            kind = entry.get("problem", "classification")
            if metrics[0] != metrics_of(kind["kind"] if isinstance(kind, dict) else kind)[0]:
                entry["metric"] = metrics[0]
            read.tasks[name] = CatalogueTask(entry, metrics, confirmed)
        read.not_ready.update(not_ready)
        read.aliases.update({_squeezed(name): name for name in (*content["tasks"], *not_ready)})
        if group != _UNGROUPED:
            read.groups[group] = (*content["tasks"], *not_ready)
    return read


def named_task(short: str) -> dict[str, Any] | None:
    """Return the mapping of a task known by name, or None.

    Args:
        short: `sst2`, `glue/sst2`, `clue/tnews`, `squad_v2`; case, hyphens and underscores make no difference.

    Raises:
        ValueError: the name is known, but its data cannot be read by name alone; with the remedy.
    """
    known = catalogue()
    group, slash, last = short.rpartition("/")
    name = known.aliases.get(_squeezed(last))
    if name is None or (slash and name not in known.groups.get(group.lower(), ())):
        return None
    if name in known.not_ready:
        raise ValueError(f"{short!r} cannot be used by its name alone: {known.not_ready[name]}")
    return deepcopy(known.tasks[name].mapping)


def did_you_mean(short: str) -> str:
    """` (did you mean X?)` when a name of the catalogue is close, otherwise nothing."""
    known = catalogue()
    grouped = (f"{group}/{name}" for group, names in known.groups.items() for name in names)
    return suggestion(short, [*known.tasks, *sorted(grouped)])


def _squeezed(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
