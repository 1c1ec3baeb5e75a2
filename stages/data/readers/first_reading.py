"""Data as a run first read it: what changes while the run goes on changes nothing of it.

The digest of a stage, the rows that it learns and those that it is judged on are asked for again and again, over hours.
Inside `first_reading` each answer stays what it was at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from schemas.core.errors import DataError

Kept = dict[tuple[str, str, str], Any]
Answer = TypeVar("Answer")

# Of the process, not of a thread: a run asks from threads of its own.
_kept: Kept | None = None
_blocks = 0
_lock = Lock()
_is_looked_at_now: ContextVar[bool] = ContextVar("is_looked_at_now", default=False)


@contextmanager
def first_reading() -> Iterator[None]:
    """Inside the block, and in blocks within it or beside it, what was read once is not read again."""
    global _kept, _blocks
    with _lock:
        _blocks += 1
        _kept = {} if _kept is None else _kept
    try:
        yield
    finally:
        # Two runs in threads may end in the order in which they began.
        with _lock:
            _blocks -= 1
            if not _blocks:
                _kept = None


@contextmanager
def as_it_is_now() -> Iterator[None]:
    """Inside the block everything is read again, and nothing of it is kept."""
    token = _is_looked_at_now.set(True)
    try:
        yield
    finally:
        _is_looked_at_now.reset(token)


def read_once(
    kind: str, of: BaseModel, read: Callable[[], Answer], *, fits: Callable[[Answer], bool] = lambda _: True
) -> Answer:
    """What `read` answers; inside `first_reading` what it answered first.

    Args:
        kind: what is asked, such as `digest`.
        of: the config of what it is asked about.
        read: finds the answer.
        fits: whether an answer that was kept will do.

    Raises:
        DataError: a file was removed while it was read.
    """
    with still_there():
        if _kept is None or _is_looked_at_now.get():
            return read()
        key = (kind, type(of).__name__, of.model_dump_json())
        if key not in _kept or not fits(_kept[key]):
            _kept[key] = read()
        return cast(Answer, _kept[key])


@contextmanager
def still_there() -> Iterator[None]:
    """A file that was looked at and is gone when it is read is a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} was removed while it was read; put it back and run again") from None
