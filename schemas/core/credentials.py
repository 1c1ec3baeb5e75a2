"""User names, passwords and tokens in addresses: taken out of what is shown, refused in what is kept.

A recipe is copied into manifests, reports, MLflow and Prefect's parameters, so a secret in it would be everywhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from schemas.core.errors import ConfigError

# One slash where a path has swallowed the other.
_USER_INFO = re.compile(r"(:/{1,2})[^\s/?#'\"]*@")
# A password may hold an unescaped slash; digits up to a slash are a port and no password. Its length is bounded, so
# that a text of many addresses is not searched to its end from each of them.
_SLASHED = re.compile(r"(:/{1,2})[^\s:/?#]+:(?!\d{1,5}(?:[/?#]|$))[^\s'\"]{0,512}@")
_QUERY = re.compile(
    r"([?&](?:[\w\-]*(?:token|password|passwd|secret|signature|credential)|\w*_?key|sig)=)[^&\s'\"]+", re.IGNORECASE
)
_SECRET_NAME = re.compile("TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|AUTH_STRING|API_KEY|ACCESS_KEY", re.IGNORECASE)
_SHORTEST_SECRET = 8
_MOST = 50
_REMEDY = (
    "what is given here is kept with every run, in MLflow and by Prefect: leave it out; credentials belong into "
    "the environment (docs/security.md)"
)


def without_credentials(text: str) -> str:
    """The text with user names, passwords and tokens taken out of every address in it."""
    text = _SLASHED.sub(r"\1", text)
    text = _USER_INFO.sub(r"\1", text)
    return _QUERY.sub(r"\1***", text)


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What an environment keeps secret, in every form in which a library may log it, the longest first.

    These are the values of variables with a telling name and the user information of addresses: whole, the part behind
    the user's name, and in base64 as a request's header has it. Very short ones are left out: they are words as well.
    """
    found: set[str] = set()
    for name, value in environ.items():
        found.update(re.findall(r"://([^\s/?#]*)@", value))
        if _SECRET_NAME.search(name):
            found.add(value)
    found |= {text.partition(":")[2] for text in found}
    found |= {base64.b64encode(text.encode()).decode() for text in found}
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    """The text without these secrets, and without the credentials of any address."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return without_credentials(text)


def refuse_credentials(given: dict[str, Any]) -> None:
    """Make sure that no text below any of these places is an address with credentials.

    Args:
        given: what somebody gave (texts, lists, mappings of texts to them), by its place.

    Raises:
        ConfigError: a line for each address that has some (the first 50), which shows it without them.
    """
    problems = (
        f"{where}: an address with a user name, password or token in it ({shown[:200]}); {_REMEDY}"
        for place, value in given.items()
        for where, text in _texts(place, value)
        if (shown := without_credentials(text)) != text
    )
    if found := tuple(dict.fromkeys(islice(problems, _MOST))):
        raise ConfigError(found)


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value, keys too, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield place, key
            yield from _texts(f"{place}.{without_credentials(key)}"[:200], item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(f"{place}[{index}]", item)
