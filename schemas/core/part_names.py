"""Names of further validation rows and of tasks, which become part of the names of their scores."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from schemas.core.wording import printable

Named = TypeVar("Named")
_NAME = re.compile(r"^\w(?:[\w.\- ]{0,62}[\w.\-])?$")
_RESERVED = {
    "train": "the training rows",
    "validation": "the validation rows",
    "unseen": "the validation rows whose texts are not among the training rows",
}
_FORM = "names have at most 64 letters, digits, blanks, ., - and _, and begin with a letter, a digit or _"


def check_names(named: dict[str, Named]) -> dict[str, Named]:
    """Refuse names that MLflow would refuse as part of a score's name.

    Raises:
        ValueError: the message lists every such name.
    """
    if wrong := [printable(repr(name), 80) for name in named if not _NAME.match(name)]:
        raise ValueError(f"{', '.join(wrong)}: {_FORM}; choose another name")
    return named


def _check_further(named: dict[str, str]) -> dict[str, str]:
    check_names(named)
    for name in named:
        if (reserved := _RESERVED.get(name.casefold())) is not None:
            raise ValueError(f"{name} is reserved for {reserved}; give these rows another name")
    return named


FurtherRows = Annotated[dict[str, Annotated[str, Field(min_length=1)]], AfterValidator(_check_further)]
"""Further validation rows by name: files or splits."""
