"""From YAML and `--set a.b=c` to a Recipe and back; every error at once, with its place and line.

Nothing is looked up here but the recipe's own file. The folder of shipped recipes is handed in,
because it belongs to a package that this one does not import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from schemas.core.base import parse_kind
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from schemas.core.refs import parse_model
from schemas.core.training import Amount, parse_amount
from schemas.core.wording import KeyPath, printable, shown_path, shown_value, suggestion
from schemas.data.task_names import named_tasks
from schemas.data.tasks import parse_task
from schemas.loading.explain import explained, field_of, item_type, meaningful, members, tag_of
from schemas.loading.task_overrides import set_tasks
from schemas.loading.yaml_text import Document, parse_yaml, read_yaml
from schemas.recipe.recipe import Recipe

_NAME = re.compile(r"^[a-z0-9][a-z0-9_\-]{0,63}$")
_MAX_INDEX_DIGITS = 6
MAX_PROBLEMS = 50

Result = TypeVar("Result")

# Keys whose value may be text for a mapping: `task.max_length=64` opens up `task: sst2`.
_SHORT_FORMS = {
    "task": parse_task,
    "tasks": parse_task,  # each of them
    "model": parse_model,
    "duration": parse_amount,
    "batch": parse_amount,
    "problem": parse_kind,
    "cut": parse_kind,
}


@dataclass(frozen=True)
class Override:
    """One `--set a.b=c`."""

    text: str
    """As it was given."""
    segments: tuple[str, ...]
    """The path; list items by number, by `name` or by `kind`."""
    value: Any
    """What the path is set to."""

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"--set {shown_value(self.text)[1:-1]}"


def load_recipe(source: str | Path, overrides: Sequence[str] = (), *, recipes_folder: Path | None) -> Recipe:
    """The recipe of a shipped name or a YAML file, with overrides applied in their order.

    Args:
        source: a shipped recipe's name, or the path of a YAML file.
        overrides: `a.b=c`, the value in YAML; list items by number, by `name` (stages) or by
            `kind` (terms).
        recipes_folder: where the shipped recipes are; None when there are none.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    # Alone and first: other messages quote what was given.
    refuse_credentials({"RECIPE": str(source), "--set": list(overrides)})
    path, shown = _find(source, recipes_folder)
    problems: list[str] = []
    parsed = _attempt(problems, lambda: parse_overrides(overrides)) or ()
    _attempt(problems, lambda: _refuse_both(parsed))
    document = _attempt(problems, lambda: read_yaml(path, shown))
    if document is None:
        raise ConfigError(_capped(problems))
    refuse_credentials({f"{shown}: recipe": document.value})
    applied: list[tuple[KeyPath, Override]] = []
    for override in parsed:
        places = _attempt(problems, lambda: _apply(document.value, override))  # noqa: B023  (called at once)
        applied += [(place, override) for place in places or ()]
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        causes: dict[tuple[str, str], list[str]] = {}
        for details in meaningful(error.errors(include_url=False))[: 20 * MAX_PROBLEMS]:
            place, text = explained(details, Recipe)
            origin = _origin(place, document, applied, shown)
            causes.setdefault((origin, text), []).append(shown_path(place) or "recipe")
        problems += [f"{at}: {_places(places)}: {text}" for (at, text), places in causes.items()]
        raise ConfigError(_capped(problems)) from None
    if problems:
        raise ConfigError(_capped(problems))
    return recipe


def _attempt(problems: list[str], call: Callable[[], Result]) -> Result | None:
    """What the call returns; None, with its problems noted, when it refuses."""
    try:
        return call()
    except ConfigError as error:
        problems += error.problems
        return None


def _places(places: list[str]) -> str:
    """Where one line of a recipe is wrong: an anchor stands in several places."""
    more = len(places) - 1
    return f"{places[0]} and {more} more place{'s' * (more > 1)}" if more else places[0]


def _capped(problems: list[str]) -> tuple[str, ...]:
    """Each problem once, and no more of them than a person reads."""
    different = tuple(dict.fromkeys(problems))
    if len(different) <= MAX_PROBLEMS:
        return different
    return (*different[:MAX_PROBLEMS], "and more; mend these first")


def parse_overrides(overrides: Sequence[str]) -> tuple[Override, ...]:
    """The overrides, each path split and each value read as YAML.

    Raises:
        ConfigError: one line for each that is not of the form `a.b=c`.
    """
    parsed: list[Override] = []
    problems: list[str] = []
    for text in overrides:
        try:
            parsed.append(_parse_override(text))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(parsed)


def _refuse_both(overrides: Sequence[Override]) -> None:
    """Of one task and several, the later would silently undo the earlier."""
    named = {
        override.segments[0]: override.label
        for override in overrides
        if override.segments in (("task",), ("tasks",)) and override.value is not None
    }
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named.values())}: a run has one task or several; leave one of the two out")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default spelled out, as YAML that loads back to an equal recipe."""
    return yaml.dump(
        _plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Escapes the separators that YAML would read back as an ordinary line end."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """The text, in double quotes where it holds one of them."""
        style = '"' if any(separator in data for separator in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def recipe_names(folder: Path) -> tuple[str, ...]:
    """The names of the recipes in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if _NAME.match(path.stem)))


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, short forms included, for editors."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for amount in ("Duration", "BatchSize"):
        definitions[amount] = {"anyOf": [{"type": "string"}, definitions[amount]]}
    opened: dict[str, Any] = _allow_text(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **opened}


def _find(source: str | Path, folder: Path | None) -> tuple[Path, str]:
    """The recipe's file, and what messages call it."""
    names = recipe_names(folder) if folder is not None else ()
    if isinstance(source, str) and folder is not None and source in names:
        return folder / f"{source}.yaml", f"{source}.yaml"
    path = local_path(source, "RECIPE")
    if path.exists() or not names:
        return path, printable(str(source))
    hint = suggestion(path.stem, names)
    raise ConfigError(
        f"{shown_value(str(source))}: neither a file nor a shipped recipe{hint}; shipped: {', '.join(names)}"
    )


def _parse_override(text: str) -> Override:
    label = f"--set {shown_value(text)[1:-1]}"
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


def _apply(document: dict[str, Any], override: Override) -> tuple[KeyPath, ...]:
    """Sets the value inside the document; returns the places that it wrote, list items as numbers."""
    named = set_tasks(document, override.segments, override.value, override.label)
    if named is not None:
        return named
    at: Any = document
    annotation: Any = Recipe
    place: KeyPath = ()
    last = len(override.segments) - 1
    for depth, segment in enumerate(override.segments):
        key: str | int
        if isinstance(at, list):
            key = _index(at, segment, place, override)
            inner = item_type(annotation)
            annotation = _chosen(inner, at[key])
        elif isinstance(at, dict):
            key = segment
            field, inner = field_of(annotation, segment), item_type(annotation)
            name = str(place[-1]) if inner else segment
            if depth < last:
                at[key] = _opened(name, at.get(key), field.default if field else None)
            annotation = _chosen(field.annotation if field else inner, at.get(key))
        else:
            raise ConfigError(
                f"{override.label}: {shown_path(place)} is {shown_value(at)} and has no keys; set it as a whole"
            )
        place = (*place, key)
        if depth == last:
            at[key] = override.value
        else:
            at = at[key]
    return (place,)


def _opened(name: str, value: Any, default: Any) -> Any:
    """The value as something that has keys or items, where it or its default can be written so."""
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
        # Only what tells the variants apart: the rest would be wrong keys once that is changed.
        tag = tag_of(type(default))
        return dict([tag]) if tag else {}
    return to_jsonable_python(default) if isinstance(default, tuple) else {}


def _chosen(annotation: Any, value: Any) -> Any:
    """The model that the value's tag names; the annotation itself when it names none."""
    for member in members(annotation):
        tag = tag_of(member) if isinstance(member, type) and issubclass(member, BaseModel) else None
        if tag and isinstance(value, dict) and value.get(tag[0]) == tag[1]:
            return member
    return annotation


def _index(items: list[Any], segment: str, place: KeyPath, override: Override) -> int:
    where = f"{override.label}: {shown_path(place)}"
    if segment.isdecimal() and len(segment) <= _MAX_INDEX_DIGITS:
        if int(segment) < len(items):
            return int(segment)
        raise ConfigError(f"{where} has {len(items)} items, numbered from 0; there is no {segment}")
    names = [
        next((str(item[key]) for key in ("name", "kind") if key in item), "") if isinstance(item, dict) else ""
        for item in items
    ]
    if names.count(segment) == 1:
        return names.index(segment)
    if segment in names:
        raise ConfigError(f"{where} has several items named {segment}; give the number, counted from 0")
    there = ", ".join(name for name in names if name) or f"numbers 0 to {len(items) - 1}"
    raise ConfigError(f"{where} has no item {shown_value(segment)}{suggestion(segment, names)}; there are: {there}")


def _origin(place: KeyPath, document: Document, applied: list[tuple[KeyPath, Override]], shown: str) -> str:
    """Who wrote the value at a place: an override, or a line of the file."""
    for target, override in reversed(applied):
        if place[: len(target)] == target:
            return override.label
    if len(place) > 2 and place[0] == "tasks" and ("tasks",) not in document.lines:
        # What several tasks keep of the recipe's one stands where that one does.
        return _origin(("task", *place[2:]), document, applied, shown)
    if place not in document.lines:
        for target, override in reversed(applied):
            if place and target[: len(place)] == place:
                return override.label
    while place not in document.lines:
        place = place[:-1]
    return f"{shown}:{document.lines[place]}"


def _plain(value: Any) -> Any:
    """The value as YAML writes it, with amounts in their short form."""
    if isinstance(value, Amount):
        return _short_amount(value)
    if isinstance(value, BaseModel):
        fields = sorted(type(value).model_fields, key=lambda name: name not in ("kind", "name"))
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _short_amount(value: Amount) -> str | dict[str, Any]:
    """`3 epochs`, `2.5M tokens`; the whole mapping where no such text means exactly this amount."""
    exact = value.model_dump(mode="json")
    unit = value.unit[:-1] if value.amount == 1 else value.unit
    number = str(int(value.amount)) if value.amount.is_integer() else repr(value.amount)
    texts = [
        f"{value.amount / scale:g}{suffix} {unit}"
        for suffix, scale in (("M", 1e6), ("k", 1e3))
        if value.amount >= scale
    ]
    for text in sorted([f"{number} {unit}", *texts], key=len):
        try:
            if parse_amount(text) == exact:
                return text
        except ValueError:
            continue
    return exact


def _allow_text(node: Any) -> Any:
    """The schema with text allowed wherever a task or a model may be written in short."""
    if isinstance(node, list):
        return [_allow_text(item) for item in node]
    if not isinstance(node, dict):
        return node
    opened = {key: _allow_text(item) for key, item in node.items()}
    variants = opened.get("discriminator", {})
    mapping = variants.get("mapping", {}) if isinstance(variants, dict) else {}
    if {"package", "folder"} <= set(mapping) or "/HubTask" in str(mapping.get("hub", "")):
        return {"anyOf": [{"type": "string"}, opened]}
    return opened
