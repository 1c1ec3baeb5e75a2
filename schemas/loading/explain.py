"""What a recipe's validation errors mean, in sentences, at the place where the value was written.

pydantic names places by its own inner structure (union tags among the keys) and values by Python
types. Here its error list is walked along the schemas themselves, so that a message names the YAML
path, what was given and what is allowed.
"""

from __future__ import annotations

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


def tag_of(model: type[BaseModel]) -> tuple[str, str] | None:
    """The key and value that tell this model from its siblings, such as ("kind", "hub")."""
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


class Found:
    """Where an error stands: its place without tags, its field, and what holds the field."""

    def __init__(self, root: type[BaseModel], loc: KeyPath) -> None:
        self.place: KeyPath = ()
        self.field: FieldInfo | None = None
        self.holder: Any = root
        annotation: Any = root
        for part in loc:
            tagged = [
                member
                for member in members(annotation)
                if isinstance(member, type)
                and issubclass(member, BaseModel)
                and (tag := tag_of(member))
                and tag[1] == part
            ]
            if len(members(annotation)) > 1 and tagged:
                annotation = tagged[0]
                continue
            if isinstance(part, str) and part.startswith(("function-", "tagged-union", "nullable")):
                continue
            self.place = (*self.place, part)
            self.holder = annotation
            if isinstance(part, int):
                self.field, annotation = None, item_type(annotation)
            else:
                self.field = field_of(annotation, part)
                annotation = self.field.annotation if self.field else item_type(annotation)

    def purpose(self) -> str:
        """The field's own line of description, in brackets."""
        text = (self.field.description or "") if self.field else ""
        text = " ".join(text.split()).rstrip(".")
        return f" ({text})" if text else ""

    def allowed_types(self) -> list[Any]:
        """What the field, or else the list's items, may be."""
        return members(self.field.annotation if self.field else item_type(self.holder))


def meaningful(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors that stand for themselves: a list of wrong items is no list that is too short."""
    return [
        error
        for error in errors
        if error["type"] != "too_short" or len(error["input"]) < error.get("ctx", {})["min_length"]
    ]


def explained(error: ErrorDetails, root: type[BaseModel]) -> tuple[KeyPath, str]:
    """The error's YAML place and what is wrong there, in plain words."""
    found = Found(root, error["loc"])
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(found.place, kind, context)
    if kind == "extra_forbidden":
        return found.place, _unknown_key(found)
    if kind in ("value_error", "recipe"):
        return found.place, _own_message(error)
    if kind == "missing":
        return found.place, f"is missing{found.purpose()}"
    return found.place, f"{shown_value(given)} {_wrong_value(kind, context, given, found)}"


def _wrong_value(kind: str, context: dict[str, Any], given: Any, found: Found) -> str:
    if kind == "literal_error":
        allowed = _choices(found) or [str(context.get("expected", ""))]
        return f"is not allowed{suggestion(given, allowed)}; choose {_any_of(allowed)}"
    if kind == "string_pattern_mismatch" and "0-9a-f" in str(context["pattern"]):
        return "is no SHA-256; expected 64 lower-case hexadecimal digits"
    if kind == "string_pattern_mismatch":
        return f"does not have the right form{found.purpose()}"
    if kind == "finite_number":
        return "is not allowed; give a finite number"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"is not allowed; it {words} {context[key]:g}"
    if kind in _LENGTHS:
        key, words, unit = _LENGTHS[kind]
        bound = context[key]
        return f"is not allowed; {words} {bound} {unit}{'s' * (bound != 1)}"
    if any(isinstance(member, type) and issubclass(member, Amount) for member in found.allowed_types()):
        return f"is not allowed; expected an amount and its unit{found.purpose()}"
    if expected := _EXPECTED.get(kind.split("_")[0]):
        return f"is not allowed; expected {expected}{found.purpose()}"
    return f"is not valid here{found.purpose()}"


def _unknown_key(found: Found) -> str:
    models = [member for member in members(found.holder) if isinstance(member, type)]
    allowed = [name for model in models[:1] for name in getattr(model, "model_fields", {})]
    return f"unknown key{suggestion(found.place[-1], allowed)}; allowed: {', '.join(allowed)}"


def _wrong_tag(place: KeyPath, kind: str, context: dict[str, Any]) -> tuple[KeyPath, str]:
    key = str(context["discriminator"]).strip("'")
    place = (*place, key)
    if kind == "union_tag_not_found":
        return place, "is missing; it says which of the variants is meant"
    allowed = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
    given = context["tag"]
    return (place, f"{shown_value(given)} is unknown{suggestion(given, allowed)}; choose {_any_of(allowed)}")


def _choices(found: Found) -> list[str]:
    return [
        str(choice) for member in found.allowed_types() if get_origin(member) is Literal for choice in get_args(member)
    ]


def _any_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _own_message(error: ErrorDetails) -> str:
    reason = error.get("ctx", {}).get("error") or error.get("ctx", {}).get("reason")
    text = " ".join(str(reason if reason is not None else error["msg"]).split())
    # A message that quotes what was given may quote a whole page of it.
    return printable(text, limit=400)
