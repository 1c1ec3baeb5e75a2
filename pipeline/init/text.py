"""A new recipe as commented YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 100
_COLUMN = 48
"""Widest line whose comment is aligned with those of others."""


class _Dumper(yaml.SafeDumper):
    """Writes `5e-5` for 0.00005."""

    def represent_float(self, data: float) -> yaml.ScalarNode:
        """Represent a number in its shortest form."""
        return self.represent_scalar("tag:yaml.org,2002:float", re.sub(r"e-0*", "e-", f"{data:g}"))


_Dumper.add_representer(float, _Dumper.represent_float)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[0-9.]+e-[0-9]+$"), list("0123456789"))


def recipe_text(parts: Mapping[str, Any], comments: Mapping[str, str], closing: list[str]) -> str:
    """Return a recipe in the fewest lines, with a comment behind each that has one.

    Args:
        parts: the recipe.
        comments: by the dotted path of a line's key.
        closing: comments at the end.
    """
    lines: list[tuple[str, str]] = []
    for name, value in parts.items():
        if isinstance(value, Mapping) and (name == "task" or len(_inline(value)) > _WIDTH - len(name)):
            lines.append((f"{name}:", comments.get(name, "")))
            lines += [(f"  {key}: {_inline(item)}", comments.get(f"{name}.{key}", "")) for key, item in value.items()]
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            lines.append((f"{name}:", comments.get(name, "")))
            lines += [(f"  - {_inline(item)}", "") for item in value]
        else:
            lines.append((f"{name}: {_inline(value)}", comments.get(name, "")))
    column = max((len(line) for line, comment in lines if comment and len(line) <= _COLUMN), default=0)
    shown = [f"{line:<{column}}  # {comment}" if comment else line for line, comment in lines]
    return "\n".join([*shown, "", *(f"# {line}" for line in closing)]) + "\n"


def _inline(value: Any) -> str:
    """Return a value in YAML's flow style, on one line."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()
