"""Write docs/reference/ from the schemas, the commands and the docstrings: `make reference`.

The pages are kept in git, so that they can be read without a build; a test compares them with what this writes.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
PYTHON = {
    "pipeline/api.py": ("run_recipe", "run_recipes", "RunResult", "read_run", "read_recipe", "stage_of"),
    "stages/run.py": ("run_stage",),
    "schemas/results/manifest.py": ("StageResult", "CheckpointRef"),
    "schemas/results/score.py": ("Score",),
    "stages/ports/plain.py": ("plain_ports",),
}
"""Functions and classes of the Python page, by file."""
_DEPTH = 5
"""Levels of keys that are searched for uses; deeper ones repeat them."""
NOTE = "<!-- Written by docs/generate.py (make reference); do not edit. -->\n"


def pages() -> dict[str, str]:
    """Contents of the pages by file name."""
    return {"recipe.md": recipe_page(), "commands.md": commands_page(), "python.md": python_page()}


# Recipe keys


def recipe_page() -> str:
    """Every key of a recipe: what it takes, its default and its meaning."""
    from schemas.loading.dump import recipe_schema

    schema = _without_simple_references(recipe_schema())
    definitions: dict[str, Any] = schema["$defs"]
    paths: dict[str, list[str]] = {}
    for name, path in _uses(schema["properties"], definitions):
        if path not in paths.setdefault(name, []):
            paths[name].append(path)
    lines = [
        NOTE,
        "# Recipe keys",
        "",
        "Every key that a recipe may have. `distill show RECIPE` prints a recipe with all of its defaults, and",
        "`distill schema` the JSON schema for editors ([how to connect it](../recipes.md#complete-keys-in-an-editor)).",
        "A key without a default is required, unless its description says otherwise.",
        "",
        "## Top level",
        "",
        *_table(schema, definitions),
    ]
    for name, used in paths.items():
        shown = [f"`{path}`" for path in used[:3]] + ["…"] * (len(used) > 3)
        lines += ["", f"## {name}", "", *_described(definitions[name])]
        lines += [f"Used in {', '.join(shown)}.", "", *_table(definitions[name], definitions)]
    return "\n".join(lines) + "\n"


def _without_simple_references(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with definitions that have no keys of their own, such as amounts, in place of references to them."""
    simple = {name: value for name, value in schema["$defs"].items() if "properties" not in value}

    def replaced(value: dict[str, Any]) -> dict[str, Any]:
        name = str(value.get("$ref", "")).rpartition("/")[2]
        return {**simple[name], **{key: value[key] for key in value if key != "$ref"}} if name in simple else value

    resolved: dict[str, Any] = json.loads(json.dumps(schema), object_hook=replaced)
    return resolved


def _uses(fields: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Names of definitions with the path of a key that holds one, outer keys first."""
    for key, field in fields.items():
        for name in dict.fromkeys(_names(field)):
            inside = f"{path}{key}{'[]' if _is_list(field) else ''}"
            yield name, inside
            if inside.count(".") < _DEPTH:
                yield from _uses(definitions[name]["properties"], definitions, f"{inside}.")


def _is_list(field: dict[str, Any]) -> bool:
    return any(option.get("type") == "array" for option in (field, *field.get("anyOf", ())))


def _names(value: Any) -> Iterator[str]:
    """Names of the definitions that a field refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for key, item in value.items():
            if key != "discriminator":
                yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _described(definition: dict[str, Any]) -> list[str]:
    return [_text(definition["description"]), ""] if definition.get("description") else []


def _table(definition: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    required = definition.get("required", [])
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for key, field in definition["properties"].items():
        default = "required" if key in required else _default(field)
        names = list(_names(field))
        meaning = field.get("description") or (definitions[names[0]].get("description", "") if len(names) == 1 else "")
        cells = (f"`{key}`", _values(field), default, _text(meaning))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _default(field: dict[str, Any]) -> str:
    if "const" in field:
        return ""
    if "default" not in field:
        return ""
    text = json.dumps(field["default"], ensure_ascii=False)
    return f"`{text}`" if len(text) <= 60 else "see `distill show`"


def _values(field: dict[str, Any]) -> str:
    """The values that a key takes, in words, with links to the keys of mappings."""
    if (target := field.get("$ref")) is not None:
        name = target.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            return ", ".join(dict.fromkeys(_values(option) for option in field[union]))
    kind = field.get("type")
    if kind == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        return f"list of {', '.join(dict.fromkeys(map(_values, items)))}"
    if kind == "object":
        value = field.get("additionalProperties")
        if isinstance(value, dict):
            return f"mapping to {_values(value)}"
        return (
            f"mapping of {', '.join(f'`{key}`' for key in field['properties'])}" if "properties" in field else "mapping"
        )
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}
    return words.get(str(kind), "any") + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f" {' and '.join(bounds)}" if bounds else ""


def _text(description: str) -> str:
    """A description in one line, without what Markdown would take for HTML."""
    return re.sub(r"<(?=\w)", "&lt;", " ".join(description.split()))


# Commands


def commands_page() -> str:
    """Every command with its help, arguments and options."""
    import typer.main

    from pipeline.command_line import app

    group: Any = typer.main.get_command(app)
    commands = {name: command for name, command in group.commands.items() if not command.hidden}
    lines = [
        NOTE,
        "# Commands",
        "",
        "`distill --help` lists the commands, `distill COMMAND --help` describes one. Every command exits with 0 on",
        "success, 2 on a mistake in its input, and 1 on a failure of the run.",
        "",
        "| command | purpose |",
        "|---|---|",
        *(
            f"| [{name}](#distill-{name}) | {_text(command.get_short_help_str(200))} |"
            for name, command in commands.items()
        ),
    ]
    for name, command in commands.items():
        lines += ["", f"## distill {name}", "", *_paragraphs(command.help)]
        arguments = [_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        lines += ["", "```text", " ".join(["distill", name, *arguments, "[OPTIONS]"]), "```"]
        rows = [_option(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            lines += ["", "| argument or option | meaning | default |", "|---|---|---|", *rows]
        if command.epilog:
            lines += ["", *_paragraphs(command.epilog)]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str | None) -> list[str]:
    """Help as Markdown: paragraphs, with examples that begin with `distill` as code."""
    lines: list[str] = []
    plain = re.sub(r"\[/?[a-z]+\]", "", text or "").replace("\b", "")  # without the terminal's signs for bold
    for paragraph in re.split(r"\n\s*\n", plain.strip()):
        rows = [row.strip() for row in paragraph.splitlines() if row.strip()]
        code = [row for row in rows if row.startswith(("distill ", "$ "))]
        if code:
            lines += [*(_text(row) for row in rows if row not in code), "", "```text", *code, "```", ""]
        else:
            lines += [_text(" ".join(rows)), ""]
    return lines[:-1] if lines and not lines[-1] else lines


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name.strip('[]')}]"


def _option(parameter: Any) -> str:
    metavar = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or parameter.name.upper()}"
    if parameter.param_type_name == "argument":
        shown = f"`{_argument(parameter)}`"
    else:
        shown = ", ".join(f"`{name}{metavar if name == parameter.opts[-1] else ''}`" for name in parameter.opts)
    default = parameter.default
    is_plain = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
    cells = (shown, _text(getattr(parameter, "help", None) or ""), f"`{default}`" if is_plain else "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# Python


def python_page() -> str:
    """Functions and classes for scripts and notebooks, from their sources: nothing is imported."""
    lines = [
        NOTE,
        "# Python",
        "",
        "Functions and results for scripts and notebooks. [From Python](../python.md) shows how to use them.",
    ]
    for file, names in PYTHON.items():
        body = {getattr(node, "name", ""): node for node in ast.parse((ROOT / file).read_text("utf-8")).body}
        module = file.removesuffix(".py").replace("/", ".")
        for name in names:
            node = body[name]
            lines += ["", f"## {name}", "", f"`from {module} import {name}`", ""]
            if isinstance(node, ast.FunctionDef):
                lines += ["```text", _signature(node), "```", "", *_docstring(node)]
            else:
                assert isinstance(node, ast.ClassDef)
                lines += [*_docstring(node), "", *_fields(node)]
    return "\n".join(lines) + "\n"


def _signature(node: ast.FunctionDef) -> str:
    line = f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else 'None'}"
    if len(line) <= 100:
        return line
    head, _, tail = line.partition("(")
    inner, _, end = tail.rpartition(")")
    return f"{head}(\n    " + re.sub(r", (?=\w+:|\*,|\*\w)", ",\n    ", inner) + f",\n){end}"


def _docstring(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """A docstring as Markdown; its sections become lists."""
    lines: list[str] = []
    for line in (ast.get_docstring(node) or "").splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines += [f"**{'Arguments' if line == 'Args:' else line[:-1]}**", ""]
        elif match := re.match(r" {4}(\*{0,2}\w+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(line.replace("        ", "  ", 1) if line.startswith("        ") else line)
    return lines


def _fields(node: ast.ClassDef) -> list[str]:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for field, text in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            kind = ast.unparse(field.annotation).replace("|", "\\|")
            lines.append(f"| `{ast.unparse(field.target)}` | `{kind}` | {_text(str(text.value.value))} |")
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and any(ast.unparse(mark) == "property" for mark in item.decorator_list):
            kind = ast.unparse(item.returns).replace("|", "\\|") if item.returns else ""
            lines.append(f"| `{item.name}` | `{kind}` | {_text(ast.get_docstring(item) or '')} |")
    return lines


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
