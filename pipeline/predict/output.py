"""Answers as JSON lines, on standard output or in a file that is whole or absent."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.process.terminal import is_unicode
from pipeline.store.files import storage_errors
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from stages.storage.sealed_folder import make_folder, remove, sync, temporary_name

Write = Callable[[list[dict[str, Any]]], None]
# JSON leaves these as they are, and a terminal obeys them.
_COMMANDS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def as_line(value: dict[str, Any], *, ascii_only: bool = False) -> str:
    """Return an object as a line of JSON."""
    text = json.dumps(value, ensure_ascii=ascii_only, default=str)
    return _COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


@contextmanager
def answers_to(to: Path | None) -> Iterator[Write]:
    """Yield a function that writes some answers and flushes them.

    Args:
        to: a file that does not exist yet; None for standard output.

    Raises:
        ConfigError: the file exists.
        StoreError: the file system refused.
    """
    if to is None:
        ascii_only = not is_unicode(sys.stdout.encoding)

        def write(answers: list[dict[str, Any]]) -> None:
            sys.stdout.write("".join(as_line(answer, ascii_only=ascii_only) for answer in answers))
            sys.stdout.flush()

        yield write
        return
    with _new_file(to) as write_to_file:
        yield write_to_file


@contextmanager
def _new_file(to: Path) -> Iterator[Write]:
    target = local_path(to, "--to").absolute()
    with storage_errors(target.parent):
        make_folder(target.parent)
        beside = target.parent / temporary_name()
        file = beside.open("x", encoding="utf-8")
    try:
        with file:

            def write(answers: list[dict[str, Any]]) -> None:
                with storage_errors(target.parent):
                    file.writelines(map(as_line, answers))

            yield write
        with storage_errors(target.parent):
            sync(beside)
            try:
                os.link(beside, target)  # fails where another process made the file meanwhile
            except FileExistsError:
                raise exists(to) from None
            sync(target.parent)
    finally:
        remove(beside)


def exists(to: Path) -> ConfigError:
    """Return the error for a file that exists."""
    return ConfigError(f"--to {to}: it exists already; give a new file, or remove it")
