"""Overrides of a recipe's task or tasks: a task named in short keeps what still holds of the one it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.core.errors import ConfigError
from schemas.core.wording import KeyPath, shown_value, suggestion
from schemas.data.task_names import named_tasks, short_name
from schemas.data.tasks import task_named


def set_tasks(document: dict[str, Any], segments: Sequence[str], value: Any, label: str) -> tuple[KeyPath, ...] | None:
    """Does what an override of the recipe's task, or of its tasks, asks for beyond setting a value.

    Args:
        document: the recipe, changed in place.
        segments: the override's path.
        value: what the path is set to.
        label: how messages name the override.

    Returns:
        The places that it wrote; None where it is left to be set like any other value.

    Raises:
        ConfigError: the recipe has no such task.
    """
    match segments:
        case ("task",) if isinstance(value, str):
            return _put_task(document, value)
        case ("task", _, *_):
            _refuse_one_of_several(document, segments, label)
        case ("tasks",) if value is not None:
            return _put_tasks(document, value)
        case ("tasks", name, *inside):
            named = _tasks_with(document, name, label, is_new=not inside)
            if not inside and isinstance(value, str):
                return _put_tasks(document, {**named, name: value})
    return None


def _put_task(document: dict[str, Any], short: str) -> tuple[KeyPath, ...]:
    """Puts a task named in short in the place of the recipe's, of which it keeps what still holds."""
    before = _replaced(document, short_name(short))
    document.pop("tasks", None)
    try:
        document["task"] = task_named(before, short)
    except ValueError:
        document["task"] = short  # refused with everything else that is wrong
    return _written(("task",), before, document["task"])


def _put_tasks(document: dict[str, Any], value: Any) -> tuple[KeyPath, ...]:
    """Puts several tasks in the place of the recipe's; those named in short keep what still holds of it."""
    written: tuple[KeyPath, ...] = ()
    try:
        named = named_tasks(value)
    except ValueError:
        named, written = value, (("tasks",),)  # refused with everything else that is wrong
    for name, task in named.items() if not written else ():
        before = _replaced(document, name)
        try:
            named[name] = task_named(before, task) if isinstance(task, str) else task
        except ValueError:
            pass  # as above
        written += _written(("tasks", name), before, named[name])
    document.pop("task", None)
    document["tasks"] = named
    return written


def _written(place: KeyPath, before: Any, named: Any) -> tuple[KeyPath, ...]:
    """Where `named` differs from the task that it replaces; which kind it is was said anew in any case."""
    if not isinstance(named, dict):
        return (place,)
    kept = before if isinstance(before, dict) else {}
    keys = [key for key in named if key == "kind" or key not in kept or kept[key] != named[key]]
    return tuple((*place, key) for key in keys)


def _replaced(document: Mapping[str, Any], name: str) -> Any:
    """The task of a recipe that one called `name` takes the place of: its namesake, its only one, or its first."""
    try:
        tasks = named_tasks(document.get("tasks"))
    except ValueError:
        tasks = None
    return tasks.get(name, next(iter(tasks.values()))) if tasks else document.get("task")


def _tasks_with(document: Mapping[str, Any], name: str, label: str, *, is_new: bool) -> dict[str, Any]:
    """The recipe's several tasks, of which an override means the one of that name."""
    try:
        named = named_tasks(document.get("tasks"))
    except ValueError:
        return {}  # refused with everything else that is wrong
    if not named:
        raise ConfigError(
            f"{label}: the recipe has no several tasks yet; name them before, such as --set tasks=[sst2, mrpc]"
        )
    if name not in named and not is_new:
        raise ConfigError(
            f"{label}: there is no task {shown_value(name)}{suggestion(name, named)}; there are: {', '.join(named)}"
        )
    return dict(named)


def _refuse_one_of_several(document: Mapping[str, Any], segments: Sequence[str], label: str) -> None:
    """`task.max_length` does not say which of several tasks is meant."""
    if tasks := document.get("tasks"):
        name = next(iter(tasks)) if isinstance(tasks, dict) else "NAME"
        place = ".".join(("tasks", name, *segments[1:]))
        raise ConfigError(
            f"{label}: the recipe has several tasks; name the one that is meant, such as --set {place}=..."
        )
