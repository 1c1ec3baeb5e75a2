"""Several tasks in one run: what each is called, and what a recipe's own task lends to those named in short."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from schemas.explain import shown_value
from schemas.tasks import task_named

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
                f"{shown_value(name)} is no name for a task; names are at most 64 English letters, digits, - and _, and "
                "begin with a letter or a digit: give a mapping, such as {my-task: ./folder}"
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
                f"{name} is named twice, by {shown_value(named[name])} and {shown_value(short)}; leave one out, or give "
                f"a mapping with a name for each, such as {{{name}-1: {named[name]}, {name}-2: {short}}}"
            )
        named[name] = short
    return named


def short_name(short: str) -> str:
    """What a task named in short is called: `sst2` for `glue/sst2`, `my-folder` for `./my-folder`."""
    last = short.strip().rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9_\-]+", "-", last).strip("-") or last


def tasks_in_place(document: Mapping[str, Any], value: Any) -> Any:
    """The tasks of `--set tasks=...` by name; each named in short keeps what still holds of the recipe's own task.

    Args:
        document: the recipe, whose `task` or `tasks` they replace.
        value: what was given.

    Raises:
        ValueError: as `named_tasks`.
    """
    named = named_tasks(value)
    for name, task in named.items():
        if isinstance(task, str):
            try:
                named[name] = task_named(own_task(document, name), task)
            except ValueError:
                continue  # left as it is, and refused with everything else that is wrong
    return named


def own_task(document: Mapping[str, Any], name: str) -> Any:
    """The task of a recipe that one called `name` takes the place of: its namesake, its only one, or its first."""
    try:
        tasks = named_tasks(document.get("tasks"))
    except ValueError:
        tasks = None
    return tasks.get(name, next(iter(tasks.values()))) if tasks else document.get("task")
