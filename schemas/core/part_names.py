"""Names that a recipe gives to rows and tasks, and that stand in the names of their scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from schemas.core.wording import printable

_NAME = re.compile(r"^\w(?:[\w.\- ]{0,62}[\w.\-])?$")
_TAKEN = {
    "train": "the training rows",
    "validation": "the validation rows",
    "unseen": "the validation rows whose texts are not among the training rows",
}
_FORM = "names are at most 64 letters, digits, blanks, ., - and _, and begin with a letter, a digit or _"


def check_names(named: Mapping[str, Any]) -> None:
    """Refuse a name that MLflow would refuse in a score's name.

    Raises:
        ValueError: with every such name.
    """
    if wrong := [printable(repr(name), 80) for name in named if not _NAME.match(name)]:
        raise ValueError(f"{', '.join(wrong)}: {_FORM}; give another name")


def _check_further(named: dict[str, str]) -> dict[str, str]:
    check_names(named)
    for name in named:
        if (taken := _TAKEN.get(name.casefold())) is not None:
            raise ValueError(f"{name} is what {taken} are called; give these rows another name")
    return named


def _check_tasks(named: dict[str, Any]) -> dict[str, Any]:
    check_names(named)
    return named


FurtherRows = Annotated[dict[str, Annotated[str, Field(min_length=1)]], AfterValidator(_check_further)]
"""Further validation rows by name: files or splits."""
TaskNames = AfterValidator(_check_tasks)
"""Checks the names of several tasks."""
