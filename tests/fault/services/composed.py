"""The services of docker/compose.yaml on this machine: same commands and environments, other addresses."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

_VARIABLE = re.compile(r"\$\{(\w+):[?-]([^}]*)\}")


def read_compose(name: str = "compose.yaml") -> dict[str, Any]:
    """Return a parsed compose file."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker" / name).read_text("utf-8"))
    return content


def image_command() -> list[str]:
    """Command of the image of docker/Dockerfile."""
    last = (ROOT / "docker" / "Dockerfile").read_text("utf-8").strip().splitlines()[-1]
    words: list[str] = json.loads(last.removeprefix("CMD "))
    return words


def service(name: str, secrets: Mapping[str, str], moved: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of a service.

    Args:
        name: of the service.
        secrets: what docker/.env would say.
        moved: what is called otherwise here (addresses, folders, ports), by its name in the file; of names that begin
            at one place, the longest counts.
    """
    known = re.compile("|".join(re.escape(old) for old in sorted(moved, key=len, reverse=True)) or "(?!)")

    def value_of(match: re.Match[str]) -> str:
        default = match[2] if match[0][match.end(1) - match.start() + 1] == "-" else ""
        return secrets.get(match[1], default)

    def here(text: str) -> str:
        return known.sub(lambda match: moved[match[0]], _VARIABLE.sub(value_of, text))

    settings = read_compose()["services"][name]
    program, *words = [*settings.get("entrypoint", ()), *settings.get("command", image_command())]
    environment = {key: here(value) for key, value in settings["environment"].items()}
    return (*_program(program), *map(here, words)), environment


def _program(name: str) -> tuple[str, ...]:
    """A program of this environment: a module of Python, or a file beside Python's."""
    if name in ("prefect", "mlflow", "distill"):
        return sys.executable, "-m", name.replace("distill", "pipeline")
    return (str(Path(sys.executable).with_name(name)),)
