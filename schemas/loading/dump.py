"""From a Recipe to YAML, and the JSON schema that editors complete recipes with."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from schemas.core.training import Amount, parse_amount
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import STAGE_ORDER, STAGE_TYPES
from schemas.recipe.student import RecipeShape


class _Dumper(yaml.SafeDumper):
    """Escapes the separators that YAML would read back as an ordinary line end."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent a text, in double quotes if it holds such a separator."""
        style = '"' if any(separator in data for separator in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default spelled out; it loads back to an equal recipe.

    Sizes that are the teacher's are left out, as in the recipe: nobody knows them before the teacher's config is read.
    """
    return yaml.dump(
        _plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )


def _plain(value: Any) -> Any:
    """The value in YAML's types, with amounts in their short form."""
    if isinstance(value, Amount):
        return _short_amount(value)
    if isinstance(value, BaseModel):
        fields = sorted(type(value).model_fields, key=lambda name: name not in ("kind", "name"))
        if isinstance(value, RecipeShape):
            fields = [name for name in fields if getattr(value, name) is not None]
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _short_amount(value: Amount) -> str | dict[str, Any]:
    """`3 epochs`, `2.5M tokens`; a mapping if no such text stands for exactly this amount."""
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


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, short forms included."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for amount in ("Duration", "BatchSize"):
        definitions[amount] = {"anyOf": [{"type": "string"}, definitions[amount]]}
    for name in ("FineTune", *(stage.__name__ for stage in STAGE_TYPES.values())):
        definitions[name]["required"].remove("training")
        if not definitions[name]["required"]:
            del definitions[name]["required"]
    text = {"type": "string"}
    tuned = {"type": "object", "properties": {"fine_tuned": text}, "required": ["fine_tuned"]}
    stages, properties = schema["properties"]["stages"], schema["properties"]
    stages["items"] = {"anyOf": [{"enum": list(STAGE_ORDER)}, stages["items"]]}
    for name, short in {"teacher": [text, tuned], "general_corpus": [text, {"type": "array", "items": {}}]}.items():
        described = {key: properties[name].pop(key) for key in ("description", "default") if key in properties[name]}
        properties[name] = {**described, "anyOf": [*short, properties[name]]}
    definitions["TeacherConfig"]["properties"]["task_model"]["anyOf"].append({"const": "fine_tune"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_allow_text(schema)}


def _allow_text(node: Any) -> Any:
    """The schema with text allowed wherever a task or a model may be written in short."""
    if isinstance(node, list):
        return [_allow_text(item) for item in node]
    if not isinstance(node, dict):
        return node
    extended = {key: _allow_text(item) for key, item in node.items()}
    variants = extended.get("discriminator", {})
    mapping = variants.get("mapping", {}) if isinstance(variants, dict) else {}
    if {"package", "folder"} <= set(mapping) or "/HubTask" in str(mapping.get("hub", "")):
        return {"anyOf": [{"type": "string"}, extended]}
    return extended
