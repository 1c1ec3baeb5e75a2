"""Names of the tasks of a run with several."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from schemas.core.wording import shown_value

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$")
_WANTED = "give a list, such as [sst2, mrpc, ./my-folder], or a mapping of names to tasks"


def named_tasks(value: Any) -> Any:
    """Return tasks by name, from a mapping or from a list of short forms, which are named after their last part.

    Raises:
        ValueError: there is no task, a name occurs twice, or a name is not allowed.
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
                f"{shown_value(name)} is no name for a task; names have at most 64 English letters, digits, - and _, "
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
    """Return the name of a short form: `sst2` for `glue/sst2`, `my-folder` for `./my-folder`."""
    last = short.strip().rstrip("/").rsplit("/", 1)[-1]
    if last in (".", ".."):
        last = os.path.basename(os.path.abspath(short.strip()))
    return re.sub(r"[^A-Za-z0-9_\-]+", "-", last).strip("-") or last
