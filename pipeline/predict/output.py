"""Answers as JSON lines, on standard output or in a file that is whole or absent."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.process.terminal import is_unicode
from schemas.core.errors import ConfigError, StoreError
from schemas.core.paths import local_path
from stages.storage.sealed_folder import make_folder, remove, sync, temporary_name

Write = Callable[[list[dict[str, Any]]], None]
# JSON leaves these as they are, and a terminal obeys them.
_COMMANDS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def as_line(value: dict[str, Any], *, ascii_only: bool = False) -> str:
    """Return an object as a line of JSON."""
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, default=str, allow_nan=False)
    except ValueError:  # JSON has no infinity, and no number that is none
        text = json.dumps(_finite(value), ensure_ascii=ascii_only, default=str)
    return _COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def _finite(value: Any) -> Any:
    """Return a value with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def answers_to(to: Path | None) -> Iterator[Write]:
    """Yield a function that writes some answers and flushes them.

    Args:
        to: a file that does not exist yet; None for standard output.

    Raises:
        ConfigError: the file exists.
        StoreError: the file system refused.
        BrokenPipeError: whoever read standard output has closed it.
    """
    if to is not None:
        with _new_file(to) as write_to_file:
            yield write_to_file
        return
    ascii_only = not is_unicode(sys.stdout.encoding)

    def write(answers: list[dict[str, Any]]) -> None:
        with _refusals("standard output"):
            sys.stdout.write("".join(as_line(answer, ascii_only=ascii_only) for answer in answers))
            sys.stdout.flush()

    yield write


@contextmanager
def _new_file(to: Path) -> Iterator[Write]:
    target, name = local_path(to, "--to").absolute(), f"--to {to}"
    beside = target.parent / temporary_name()
    with _refusals(name):
        make_folder(target.parent)
        file = beside.open("x", encoding="utf-8")

    def write(answers: list[dict[str, Any]]) -> None:
        with _refusals(name):
            file.writelines(map(as_line, answers))

    try:
        try:
            yield write
        finally:
            with _refusals(name):
                file.close()  # what is buffered may not fit any more
        with _refusals(name):
            sync(beside)
            try:
                os.link(beside, target)  # refused where another process made the file meanwhile
            except FileExistsError:
                raise exists(to) from None
            sync(target.parent)
    finally:
        remove(beside)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn a failure of the file system into a StoreError that names the output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(
            f"{name} cannot be written ({error.strerror}); give another file with --to, or make room there"
        ) from None


def exists(to: Path) -> ConfigError:
    """Return the error for a file that exists."""
    return ConfigError(f"--to {to}: it exists already; give a new file, or remove it")
