"""Several tasks in one run: what each is called, and what a recipe's own task lends to those named in short."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import ConfigError
from schemas.explain import shown_value, suggestion
from schemas.tasks import task_named
from schemas.yaml_text import Place

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$")
_WANTED = "give a list, such as [sst2, mrpc, ./my-folder], or a mapping of names to tasks"


def named_tasks(value: Any) -> Any:
    """Tasks by name, as they are given: a mapping, or a list of short forms that are called by their last part.

    Raises:
        ValueError: there is none, one is named twice, or a name is not one.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        named = dict(value)
    elif isinstance(value, list | tuple):
        named = _by_last_part(value)
    else:
        raise ValueError(f"{shown_value(value)} is no list of tasks; {_WANTED}")
    if not named:
        raise ValueError(f"no task is named; {_WANTED}")
    for name in named:
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError(
                f"{shown_value(name)} is no name for a task; names are at most 64 English letters, digits, - and _, "
                "and begin with a letter or a digit: give a mapping, such as {my-task: ./folder}"
            )
    return named


def _by_last_part(short_forms: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for short in short_forms:
        if not isinstance(short, str):
            raise ValueError(f"{shown_value(short)} has no name in a list; {_WANTED}")
        name = short_name(short)
        if name in named:
            raise ValueError(
                f"{name} is named twice, by {shown_value(named[name])} and {shown_value(short)}; leave one out, or "
                f"give a mapping with a name for each, such as {{{name}-1: {named[name]}, {name}-2: {short}}}"
            )
        named[name] = short
    return named


def short_name(short: str) -> str:
    """What a task named in short is called: `sst2` for `glue/sst2`, `my-folder` for `./my-folder`."""
    last = short.strip().rstrip("/").rsplit("/", 1)[-1]
    if last in (".", ".."):
        last = os.path.basename(os.path.abspath(short.strip()))
    return re.sub(r"[^A-Za-z0-9_\-]+", "-", last).strip("-") or last


def set_tasks(
    document: dict[str, Any], segments: Sequence[str], value: Any, label: str
) -> tuple[Place, ...] | None:
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


def _put_task(document: dict[str, Any], short: str) -> tuple[Place, ...]:
    """Puts a task named in short in the place of the recipe's, of which it keeps what still holds."""
    before = _replaced(document, short_name(short))
    document.pop("tasks", None)
    try:
        document["task"] = task_named(before, short)
    except ValueError:
        document["task"] = short  # refused with everything else that is wrong
    return _written(("task",), before, document["task"])


def _put_tasks(document: dict[str, Any], value: Any) -> tuple[Place, ...]:
    """Puts several tasks in the place of the recipe's; those named in short keep what still holds of it."""
    written: tuple[Place, ...] = ()
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


def _written(place: Place, before: Any, named: Any) -> tuple[Place, ...]:
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


def _tasks_with(
    document: Mapping[str, Any], name: str, label: str, *, is_new: bool
) -> dict[str, Any]:
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


def _refuse_one_of_several(
    document: Mapping[str, Any], segments: Sequence[str], label: str
) -> None:
    """`task.max_length` does not say which of several tasks is meant."""
    if tasks := document.get("tasks"):
        name = next(iter(tasks)) if isinstance(tasks, dict) else "NAME"
        place = ".".join(("tasks", name, *segments[1:]))
        raise ConfigError(
            f"{label}: the recipe has several tasks; name the one that is meant, such as --set {place}=..."
        )
