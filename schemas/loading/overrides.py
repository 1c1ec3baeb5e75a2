"""Overrides of a recipe: what `--set KEY=VALUE` does.

An override puts the value at its key path: keys of mappings, and items of lists by number, by `name` (stages) or by
`kind` (terms). Three kinds of paths do more than that:

| override                              | effect                                                                      |
|---------------------------------------|-----------------------------------------------------------------------------|
| `task=NAME`                           | replaces the task, or the tasks; the new one inherits what still applies    |
| `tasks=[NAME, ...]`, `tasks.KEY=NAME` | the same for each of several tasks                                          |
| `task.max_length=64`                  | first expands a short form such as `task: sst2`, whose other fields stay    |

A task inherits from the task that it replaces: everything if it is the same data, length, row limit and seed if it is
other data of the same kind, else the length (`schemas.data.tasks.task_named`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from schemas.core.base import parse_kind
from schemas.core.errors import ConfigError
from schemas.core.refs import parse_model
from schemas.core.training import parse_amount
from schemas.core.wording import KeyPath, shown_path, shown_value, suggestion
from schemas.data.task_names import named_tasks, short_name
from schemas.data.tasks import parse_task, task_named
from schemas.loading.explain import field_of, item_type, members, tag_of
from schemas.loading.yaml_text import parse_yaml
from schemas.recipe.recipe import Recipe

_MAX_INDEX_DIGITS = 6
_SHORT_FORMS = {
    "task": parse_task,
    "tasks": parse_task,
    "model": parse_model,
    "duration": parse_amount,
    "batch": parse_amount,
    "problem": parse_kind,
    "cut": parse_kind,
}
"""Parsers of short forms, by the key that holds one; `tasks` holds one for each task."""


@dataclass(frozen=True)
class Override:
    """An override as the user wrote it."""

    text: str
    """`KEY=VALUE`."""
    segments: tuple[str, ...]
    """The key path."""
    value: Any
    """The parsed value."""

    @property
    def label(self) -> str:
        """Name of the override in messages."""
        return _label(self.text)


def _label(text: str) -> str:
    return f"--set {shown_value(text)[1:-1]}"


def parse_overrides(texts: Sequence[str]) -> tuple[Override, ...]:
    """Parse overrides: split their key paths, and read their values as YAML.

    Raises:
        ConfigError: one line for each that is not of the form `a.b=c`.
    """
    overrides: list[Override] = []
    problems: list[str] = []
    for text in texts:
        try:
            overrides.append(_parse_override(text))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(overrides)


def refuse_task_beside_tasks(overrides: Sequence[Override]) -> None:
    """Refuse overrides of which the later would silently undo the earlier.

    Raises:
        ConfigError: both a task and several tasks are named.
    """
    named = {
        override.segments[0]: override.label
        for override in overrides
        if override.segments in (("task",), ("tasks",)) and override.value is not None
    }
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named.values())}: a run has one task or several; leave one of the two out")


def _parse_override(text: str) -> Override:
    label = _label(text)
    key, equals, raw = text.partition("=")
    segments = tuple(part.strip() for part in re.sub(r"\[(\w+)\]", r".\1", key).split("."))
    if not equals or not all(segments):
        raise ConfigError(f"{label}: expected KEY=VALUE, such as stages.general.training.seed=1")
    if not raw.strip():
        raise ConfigError(f"{label}: the value is missing; write null for none, '' for empty text")
    try:
        return Override(text, segments, parse_yaml(raw, label).value)
    except ConfigError as error:
        raise ConfigError(
            [re.sub(r":1: ", ": ", line, count=1) + " (quote the value?)" for line in error.problems]
        ) from None


def apply_override(document: dict[str, Any], override: Override) -> tuple[KeyPath, ...]:
    """Apply the override to a recipe's document, in place.

    Returns:
        The paths that it wrote, list items by number.

    Raises:
        ConfigError: the path leads nowhere.
    """
    written = _set_tasks(document, override)
    return written if written is not None else (_set_value(document, override),)


def _set_value(document: dict[str, Any], override: Override) -> KeyPath:
    node: Any = document
    annotation: Any = Recipe
    path: KeyPath = ()
    last = len(override.segments) - 1
    for depth, segment in enumerate(override.segments):
        key: str | int
        if isinstance(node, list):
            key = _index(node, segment, path, override)
            annotation = _variant(item_type(annotation), node[key])
        elif isinstance(node, dict):
            key = segment
            field, inner = field_of(annotation, segment), item_type(annotation)
            name = str(path[-1]) if inner else segment
            if depth < last:
                node[key] = _expanded(name, node.get(key), field.default if field else None)
            annotation = _variant(field.annotation if field else inner, node.get(key))
        else:
            raise ConfigError(
                f"{override.label}: {shown_path(path)} is {shown_value(node)} and has no keys; set it as a whole"
            )
        path = (*path, key)
        if depth == last:
            node[key] = override.value
        else:
            node = node[key]
    return path


def _expanded(name: str, value: Any, default: Any) -> Any:
    """The value in a form that has keys or items, if it or its default has such a form."""
    try:
        if isinstance(value, str) and name in _SHORT_FORMS:
            return _SHORT_FORMS[name](value)
        if isinstance(value, list) and name == "tasks":
            return named_tasks(value)
    except ValueError:
        return value
    if value is not None:
        return value
    if isinstance(default, BaseModel):
        # Only the tag: other defaults would be unknown keys if the variant were changed.
        tag = tag_of(type(default))
        return dict([tag]) if tag else {}
    return to_jsonable_python(default) if isinstance(default, tuple) else {}


def _variant(annotation: Any, value: Any) -> Any:
    """The model that the value's tag names; the annotation itself if it names none."""
    for member in members(annotation):
        if (tag := tag_of(member)) and isinstance(value, dict) and value.get(tag[0]) == tag[1]:
            return member
    return annotation


def _index(items: list[Any], segment: str, path: KeyPath, override: Override) -> int:
    prefix = f"{override.label}: {shown_path(path)}"
    if segment.isdecimal() and len(segment) <= _MAX_INDEX_DIGITS:
        if int(segment) < len(items):
            return int(segment)
        raise ConfigError(f"{prefix} has {len(items)} items, numbered from 0; there is no {segment}")
    names = [
        next((str(item[key]) for key in ("name", "kind") if key in item), "") if isinstance(item, dict) else ""
        for item in items
    ]
    if names.count(segment) == 1:
        return names.index(segment)
    if segment in names:
        raise ConfigError(f"{prefix} has several items named {segment}; give the number, counted from 0")
    listed = ", ".join(name for name in names if name) or f"numbers 0 to {len(items) - 1}"
    raise ConfigError(f"{prefix} has no item {shown_value(segment)}{suggestion(segment, names)}; it has: {listed}")


def _set_tasks(document: dict[str, Any], override: Override) -> tuple[KeyPath, ...] | None:
    """Apply an override that names a task or several; None for any other, which only sets a value."""
    value = override.value
    match override.segments:
        case ("task",) if isinstance(value, str):
            return _put_task(document, value)
        case ("task", _, *_):
            _refuse_one_of_several(document, override)
        case ("tasks",) if value is not None:
            return _put_tasks(document, value)
        case ("tasks", name, *inside):
            tasks = _tasks_with(document, name, override.label, is_new=not inside)
            if not inside and isinstance(value, str):
                return _put_tasks(document, {**tasks, name: value})
    return None


# Values that are not valid are put into the document all the same: validation reports them with all other mistakes.
def _put_task(document: dict[str, Any], short: str) -> tuple[KeyPath, ...]:
    replaced = _replaced(document, short_name(short))
    document.pop("tasks", None)
    document["task"] = _inheriting(replaced, short)
    return _changed_keys(("task",), replaced, document["task"])


def _put_tasks(document: dict[str, Any], value: Any) -> tuple[KeyPath, ...]:
    written: tuple[KeyPath, ...] = ()
    try:
        tasks = named_tasks(value)
    except ValueError:
        tasks, written = value, (("tasks",),)
    for name, task in tasks.items() if not written else ():
        replaced = _replaced(document, name)
        tasks[name] = _inheriting(replaced, task) if isinstance(task, str) else task
        written += _changed_keys(("tasks", name), replaced, tasks[name])
    document.pop("task", None)
    document["tasks"] = tasks
    return written


def _inheriting(replaced: Any, short: str) -> Any:
    try:
        return task_named(replaced, short)
    except ValueError:
        return short


def _changed_keys(path: KeyPath, replaced: Any, task: Any) -> tuple[KeyPath, ...]:
    """Paths at which a task differs from the one that it replaces; its kind counts as changed in any case."""
    if not isinstance(task, dict):
        return (path,)
    before = replaced if isinstance(replaced, dict) else {}
    return tuple((*path, key) for key in task if key == "kind" or key not in before or before[key] != task[key])


def _replaced(document: Mapping[str, Any], name: str) -> Any:
    """The task of a recipe that a task of that name replaces: its namesake, the only one, or the first of several."""
    try:
        tasks = named_tasks(document.get("tasks"))
    except ValueError:
        tasks = None
    return tasks.get(name, next(iter(tasks.values()))) if tasks else document.get("task")


def _tasks_with(document: Mapping[str, Any], name: str, label: str, *, is_new: bool) -> dict[str, Any]:
    """The recipe's tasks, of which an override addresses the one of that name."""
    try:
        tasks = named_tasks(document.get("tasks"))
    except ValueError:
        return {}
    if not tasks:
        raise ConfigError(
            f"{label}: the recipe does not have several tasks; name them first, such as --set tasks=[sst2, mrpc]"
        )
    if name not in tasks and not is_new:
        raise ConfigError(
            f"{label}: there is no task {shown_value(name)}{suggestion(name, tasks)}; there are: {', '.join(tasks)}"
        )
    return dict(tasks)


def _refuse_one_of_several(document: Mapping[str, Any], override: Override) -> None:
    """`task.max_length` does not say which of several tasks is meant."""
    if tasks := document.get("tasks"):
        name = next(iter(tasks)) if isinstance(tasks, dict) else "NAME"
        path = ".".join(("tasks", name, *override.segments[1:]))
        raise ConfigError(f"{override.label}: the recipe has several tasks; name one, such as --set {path}=...")
