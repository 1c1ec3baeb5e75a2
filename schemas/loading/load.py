"""From YAML and overrides to a Recipe, with every mistake at once, its path and its line.

Nothing is read but the recipe's own file. The folder of shipped recipes is an argument, because it belongs to a package
that this layer does not import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from schemas.core.wording import KeyPath, printable, shown_path, shown_value, suggestion
from schemas.loading.explain import explained, meaningful
from schemas.loading.overrides import Override, apply_override, parse_overrides, refuse_task_beside_tasks
from schemas.loading.yaml_text import Document, read_yaml
from schemas.recipe.recipe import Recipe

_NAME = re.compile(r"^[a-z0-9][a-z0-9_\-]{0,63}$")
MAX_PROBLEMS = 50

Result = TypeVar("Result")


def load_recipe(source: str | Path, overrides: Sequence[str] = (), *, recipes_folder: Path | None) -> Recipe:
    """Load the recipe of a shipped name or a YAML file, with overrides applied in their order.

    Args:
        source: a shipped recipe's name, or the path of a YAML file.
        overrides: `a.b=c`, see `schemas.loading.overrides`.
        recipes_folder: the folder of shipped recipes; None without any.

    Raises:
        ConfigError: all problems, one line each.
    """
    # Alone and first: other messages quote their input.
    refuse_credentials({"RECIPE": str(source), "--set": list(overrides)})
    path, title = _recipe_file(source, recipes_folder)
    problems: list[str] = []
    parsed = _attempt(problems, lambda: parse_overrides(overrides)) or ()
    _attempt(problems, lambda: refuse_task_beside_tasks(parsed))
    document = _attempt(problems, lambda: read_yaml(path, title))
    if document is None:
        raise ConfigError(_capped(problems))
    refuse_credentials({f"{title}: recipe": document.value})
    applied: list[tuple[KeyPath, Override]] = []
    for override in parsed:
        written = _attempt(problems, lambda: apply_override(document.value, override))  # noqa: B023  (called at once)
        applied += [(key_path, override) for key_path in written or ()]
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(_capped([*problems, *_mistakes(error, document, applied, title)])) from None
    if problems:
        raise ConfigError(_capped(problems))
    return recipe


def recipe_names(folder: Path) -> tuple[str, ...]:
    """Names of the recipes in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if _NAME.match(path.stem)))


def _recipe_file(source: str | Path, folder: Path | None) -> tuple[Path, str]:
    """The recipe's file, and its title in messages."""
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


def _attempt(problems: list[str], call: Callable[[], Result]) -> Result | None:
    """Return the call's result; None, with its problems noted, if it raises a ConfigError."""
    try:
        return call()
    except ConfigError as error:
        problems += error.problems
        return None


def _capped(problems: list[str]) -> tuple[str, ...]:
    """Each problem once, and no more than a person reads."""
    unique = tuple(dict.fromkeys(problems))
    return unique if len(unique) <= MAX_PROBLEMS else (*unique[:MAX_PROBLEMS], "and more; fix these first")


def _mistakes(
    error: ValidationError, document: Document, applied: list[tuple[KeyPath, Override]], title: str
) -> list[str]:
    """Explain a validation error, one line per mistake; values of an anchor share their line."""
    paths: dict[tuple[str, str], list[str]] = {}
    for details in meaningful(error.errors(include_url=False))[: 20 * MAX_PROBLEMS]:
        path, reason = explained(details, Recipe)
        origin = _origin(path, document, applied, title)
        paths.setdefault((origin, reason), []).append(shown_path(path) or "recipe")
    lines = []
    for (origin, reason), (first, *others) in paths.items():
        more = f" and {len(others)} more place{'s' * (len(others) > 1)}" if others else ""
        lines.append(f"{origin}: {first}{more}: {reason}")
    return lines


def _origin(path: KeyPath, document: Document, applied: list[tuple[KeyPath, Override]], title: str) -> str:
    """The source of the value at a path: an override, or a line of the file."""
    for written, override in reversed(applied):
        if path[: len(written)] == written:
            return override.label
    if len(path) > 2 and path[0] == "tasks" and ("tasks",) not in document.lines:
        # Several tasks inherited the value from the recipe's only one.
        return _origin(("task", *path[2:]), document, applied, title)
    if path not in document.lines:
        for written, override in reversed(applied):
            if path and written[: len(path)] == path:
                return override.label
    while path not in document.lines:
        path = path[:-1]
    return f"{title}:{document.lines[path]}"
