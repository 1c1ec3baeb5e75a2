"""The services of docker/compose.yaml on this machine: same commands and environments, other addresses."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.paths import ROOT


def read_compose() -> dict[str, Any]:
    """Return the parsed compose file."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
    return content


def service(name: str, secrets: Mapping[str, str], moved: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of a service.

    Args:
        name: of the service.
        secrets: what docker/.env would say.
        moved: what is called otherwise here (addresses, folders, ports), by its name in the file.
    """

    def here(text: str) -> str:
        text = re.sub(r"\$\{(\w+):[?-][^}]*\}", lambda match: secrets.get(match[1], ""), text)
        for old, new in moved.items():
            text = text.replace(old, new)
        return text

    settings = read_compose()["services"][name]
    command = tuple(here(word) for word in settings.get("command", ()))
    return (sys.executable, "-m", *command), {key: here(value) for key, value in settings["environment"].items()}
