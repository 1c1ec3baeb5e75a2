"""From YAML and overrides to a Recipe, with every mistake at once, its path and its line.

Nothing is read but the recipe's own file. The folder of shipped recipes is an argument, because it belongs to a package
that this layer does not import.
"""

from __future__ import annotations

import copy
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
from schemas.recipe.short_forms import expanded

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
    value = copy.deepcopy(document.value)
    for override in parsed:
        if len(override.segments) > 1:
            value = expanded(value)  # a short form has no keys
        written = _attempt(problems, lambda: apply_override(value, override))  # noqa: B023  (called at once)
        applied += [(key_path, override) for key_path in written or ()]
    try:
        recipe = Recipe.model_validate(value)
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
    hint = suggestion(str(path), _recipes_beside(path)) or suggestion(path.stem, names)
    raise ConfigError(
        f"{shown_value(str(source))}: neither a file nor a shipped recipe{hint}; shipped: {', '.join(names)}"
    )


def _recipes_beside(path: Path) -> list[str]:
    """Return the YAML files in the folder of a path that does not exist, as the user would write them."""
    folder = path.parent
    if not folder.is_dir():
        return []
    return sorted(str(file) for file in folder.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())


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
    of_file = _problems_of_file(document) if applied else set()
    for details in meaningful(error.errors(include_url=False))[: 20 * MAX_PROBLEMS]:
        path, reason = explained(details, Recipe)
        origin = _origin(path, document, applied, title)
        if (path, reason) not in of_file and (culprit := _culprit(path, applied, is_only=not of_file)):
            origin = culprit
        paths.setdefault((origin, reason), []).append(shown_path(path) or "recipe")
    lines = []
    for (origin, reason), (first, *others) in paths.items():
        more = f" and {len(others)} more place{'s' * (len(others) > 1)}" if others else ""
        lines.append(f"{origin}: {first}{more}: {reason}")
    return lines


def _culprit(path: KeyPath, applied: list[tuple[KeyPath, Override]], *, is_only: bool) -> str | None:
    """Return the override behind a mistake that the file alone does not have: inside the path, or the only one.

    Args:
        path: of the mistake.
        applied: the overrides by the paths that they wrote.
        is_only: whether the file alone has no mistake at all.
    """
    for written, override in reversed(applied):
        if path and (written[: len(path)] == path or path[: len(written)] == written):
            return override.label
    labels = {override.label for _, override in applied}
    return labels.pop() if is_only and len(labels) == 1 else None


def _problems_of_file(document: Document) -> set[tuple[KeyPath, str]]:
    """Paths and reasons of what is wrong without any override."""
    try:
        Recipe.model_validate(document.value)
    except ValidationError as error:
        return {explained(details, Recipe) for details in meaningful(error.errors(include_url=False))}
    return set()


def _origin(path: KeyPath, document: Document, applied: list[tuple[KeyPath, Override]], title: str) -> str:
    """The source of the value at a path: an override, or a line of the file."""
    for written, override in reversed(applied):
        if path[: len(written)] == written:
            return override.label
    if len(path) > 2 and path[0] == "tasks" and ("tasks",) not in document.lines:
        # Several tasks inherited the value from the recipe's only one.
        return _origin(("task", *path[2:]), document, applied, title)
    while path not in document.lines:
        path = path[:-1]
    return f"{title}:{document.lines[path]}"
