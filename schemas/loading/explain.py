"""Validation errors of a recipe in plain sentences.

pydantic locates an error by its own inner structure (union tags among the keys) and names Python's types. Here the
location is followed along the schemas, so that a message names the YAML path, the value and what is allowed.
"""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from schemas.core.training import Amount
from schemas.core.wording import KeyPath, printable, shown_value, suggestion

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (in quotes if YAML takes it for something else)",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
_LENGTHS = {
    "too_short": ("min_length", "give at least", "item"),
    "too_long": ("max_length", "give at most", "item"),
    "string_too_short": ("min_length", "give at least", "character"),
    "string_too_long": ("max_length", "give at most", "character"),
}


def members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without `Annotated` and without None."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for arm in get_args(annotation) for inner in members(arm)]
    return [] if annotation is type(None) else [annotation]


def tag_of(model: Any) -> tuple[str, str] | None:
    """The key and value that tell a model from its siblings, such as ("kind", "hub"); None for anything else."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    for name in ("kind", "name"):
        if (field := model.model_fields.get(name)) and get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
            return (name, values[0]) if len(values) == 1 else None
    return None


def item_type(annotation: Any) -> Any | None:
    """The type of the items when the annotation is a list of one type, or of a mapping's values; otherwise None."""
    for member in members(annotation):
        arguments = get_args(member)
        if get_origin(member) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return arguments[0]
        if get_origin(member) is dict:
            return arguments[1]
    return None


def field_of(annotation: Any, name: str | int) -> FieldInfo | None:
    """The field of that name in whichever of the annotation's models has one."""
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel) and name in member.model_fields:
            return member.model_fields[str(name)]
    return None


class Location:
    """The location of an error: its path without tags, its field, and the annotation of what holds the field."""

    def __init__(self, root: type[BaseModel], loc: KeyPath) -> None:
        self.path: KeyPath = ()
        self.field: FieldInfo | None = None
        self.holder: Any = root
        annotation: Any = root
        for part in loc:
            allowed = members(annotation)
            variant = next((member for member in allowed if (tag := tag_of(member)) and tag[1] == part), None)
            if len(allowed) > 1 and variant is not None:
                annotation = variant
                continue
            if isinstance(part, str) and part.startswith(("function-", "tagged-union", "nullable", "[key]")):
                continue
            self.path = (*self.path, part)
            self.holder = annotation
            self.field = None if isinstance(part, int) else field_of(annotation, part)
            annotation = self.field.annotation if self.field else item_type(annotation)

    def purpose(self) -> str:
        """The field's description, in brackets."""
        text = (self.field.description or "") if self.field else ""
        text = " ".join(text.split()).rstrip(".")
        return f" ({text})" if text else ""

    def allowed_types(self) -> list[Any]:
        """The types that the field, or else the list's items, may have."""
        return members(self.field.annotation if self.field else item_type(self.holder))


def meaningful(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors without consequences of others: a list of wrong items is not a list that is too short."""
    return [
        error
        for error in errors
        if error["type"] != "too_short" or len(error["input"]) < error.get("ctx", {})["min_length"]
    ]


def explained(error: ErrorDetails, root: type[BaseModel]) -> tuple[KeyPath, str]:
    """The error's path in the YAML, and what is wrong there."""
    location = Location(root, error["loc"])
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(location.path, kind, context)
    if kind == "extra_forbidden":
        return location.path, _unknown_key(location)
    if kind in ("value_error", "recipe"):
        return location.path, _message_of_schema(error)
    if kind == "missing":
        return location.path, f"is missing{location.purpose()}"
    return location.path, f"{shown_value(value)} {_wrong_value(kind, context, value, location)}"


def _wrong_value(kind: str, context: dict[str, Any], value: Any, location: Location) -> str:
    types = location.allowed_types()
    if kind == "literal_error":
        literals = [str(choice) for member in types if get_origin(member) is Literal for choice in get_args(member)]
        allowed = literals or re.findall(r"'([^']*)'", str(context.get("expected", "")))  # of a mapping's key
        return f"is not allowed{suggestion(value, allowed)}; choose {_any_of(allowed)}"
    if kind == "string_pattern_mismatch" and "0-9a-f" in str(context["pattern"]):
        return "is no SHA-256; expected 64 lower-case hexadecimal digits"
    if kind == "string_pattern_mismatch":
        return f"does not have the right form{location.purpose()}"
    if kind == "finite_number":
        return "is not allowed; give a finite number"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"is not allowed; it {words} {context[key]:g}"
    if kind in _LENGTHS:
        key, words, unit = _LENGTHS[kind]
        bound = context[key]
        return f"is not allowed; {words} {bound} {unit}{'s' * (bound != 1)}"
    if any(isinstance(member, type) and issubclass(member, Amount) for member in types):
        return f"is not allowed; expected an amount and its unit{location.purpose()}"
    if expected := _EXPECTED.get(kind.split("_")[0]):
        return f"is not allowed; expected {expected}{location.purpose()}"
    return f"is not valid here{location.purpose()}"


def _unknown_key(location: Location) -> str:
    models = [member for member in members(location.holder) if isinstance(member, type)]
    allowed = [name for model in models[:1] for name in getattr(model, "model_fields", {})]
    hint = suggestion(location.path[-1], allowed) or _inside(models, location.path[-1])
    return f"unknown key{hint}; allowed: {', '.join(allowed)}"


def _inside(models: list[Any], key: str | int) -> str:
    """Return a suggestion of the key in one of the models' parts: ` (did you mean optimizer.learning_rate?)`."""
    for model in models[:1]:
        for name, field in getattr(model, "model_fields", {}).items():
            if isinstance(key, str) and field_of(field.annotation, key) is not None:
                return f" (did you mean {name}.{key}?)"
    return ""


def _wrong_tag(path: KeyPath, kind: str, context: dict[str, Any]) -> tuple[KeyPath, str]:
    path = (*path, str(context["discriminator"]).strip("'"))
    if kind == "union_tag_not_found":
        return path, "is missing; it selects one of the variants"
    allowed = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
    tag = context["tag"]
    return path, f"{shown_value(tag)} is unknown{suggestion(tag, allowed)}; choose {_any_of(allowed)}"


def _any_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _message_of_schema(error: ErrorDetails) -> str:
    reason = error.get("ctx", {}).get("error") or error.get("ctx", {}).get("reason")
    text = " ".join(str(reason if reason is not None else error["msg"]).split())
    # A message that quotes a value may quote a whole page of it.
    return printable(text, limit=400)
