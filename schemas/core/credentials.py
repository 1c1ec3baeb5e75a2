"""User names, passwords and tokens in addresses: removed from output, refused in everything that is stored.

A recipe is copied into manifests, reports, MLflow and Prefect's parameters, and so would be a secret in it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from schemas.core.errors import ConfigError

# One slash if the address was normalised as a path.
_USER_INFO = re.compile(r"(:/{1,2})[^\s/?#'\"]*@")
# A password may contain an unescaped slash; digits up to a slash are a port instead. Its length is bounded, so that a
# text of many addresses is not searched to its end from each of them.
_SLASHED = re.compile(r"(:/{1,2})[^\s:/?#]+:(?!\d{1,5}(?:[/?#]|$))[^\s'\"]{0,512}@")
_QUERY = re.compile(
    r"([?&](?:[\w\-]*(?:token|password|passwd|secret|signature|credential)|\w*_?key|sig)=)[^&\s'\"]+", re.IGNORECASE
)
_SECRET_NAME = re.compile("TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|AUTH_STRING|API_KEY|ACCESS_KEY", re.IGNORECASE)
_SHORTEST_SECRET = 8
_MOST = 50
_REMEDY = (
    "this value is stored with every run, in MLflow and by Prefect: leave the credentials out; they belong in the "
    "environment (docs/security.md)"
)


def without_credentials(text: str) -> str:
    """Return the text without the user names, passwords and tokens of its addresses."""
    text = _SLASHED.sub(r"\1", text)
    text = _USER_INFO.sub(r"\1", text)
    return _QUERY.sub(r"\1***", text)


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets of an environment, in every form in which a library may log them, the longest first.

    Secrets are the values of variables with names such as `HF_TOKEN`, and the user information of addresses: as a
    whole, the password alone, and in base64 as in a request's header. Very short ones are left out, since they are also
    ordinary words.
    """
    secrets: set[str] = set()
    for name, value in environ.items():
        secrets.update(re.findall(r"://([^\s/?#]*)@", value))
        if _SECRET_NAME.search(name):
            secrets.add(value)
    secrets |= {text.partition(":")[2] for text in secrets}
    secrets |= {base64.b64encode(text.encode()).decode() for text in secrets}
    return tuple(sorted((text for text in secrets if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    """Return the text without these secrets and without the credentials of any address."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return without_credentials(text)


def refuse_credentials(values: dict[str, Any]) -> None:
    """Refuse values that contain an address with credentials.

    Args:
        values: texts, and lists and mappings of texts, by the path under which messages name them.

    Raises:
        ConfigError: one line per such address (the first 50), shown without its credentials.
    """
    problems = (
        f"{text_path}: an address with a user name, password or token in it ({shown[:200]}); {_REMEDY}"
        for path, value in values.items()
        for text_path, text in _texts(path, value)
        if (shown := without_credentials(text)) != text
    )
    if lines := tuple(dict.fromkeys(islice(problems, _MOST))):
        raise ConfigError(lines)


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value, keys included, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            yield from _texts(f"{path}.{without_credentials(key)}"[:200], item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(f"{path}[{index}]", item)
