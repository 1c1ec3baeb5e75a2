"""Data as a run first read it: files that change while the run goes on change nothing of the run.

The digest of a stage, its training rows and its evaluation rows are requested again and again, over hours. Inside
`first_reading` each answer stays what it was at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from schemas.core.errors import DataError

Answer = TypeVar("Answer")

# Of the process, not of a thread: a run reads from several threads.
_answers: dict[tuple[str, str, str], Any] | None = None
_blocks = 0
_lock = Lock()
_reads_anew: ContextVar[bool] = ContextVar("reads_anew", default=False)


@contextmanager
def first_reading() -> Iterator[None]:
    """Read nothing twice inside the block, and in blocks inside it or concurrent with it."""
    global _answers, _blocks
    with _lock:
        _blocks += 1
        _answers = {} if _answers is None else _answers
    try:
        yield
    finally:
        # Two runs in threads may end in the order in which they began.
        with _lock:
            _blocks -= 1
            if not _blocks:
                _answers = None


@contextmanager
def as_it_is_now() -> Iterator[None]:
    """Read everything anew inside the block, and remember nothing of it."""
    token = _reads_anew.set(True)
    try:
        yield
    finally:
        _reads_anew.reset(token)


def read_once(
    kind: str, of: BaseModel, read: Callable[[], Answer], *, fits: Callable[[Answer], bool] = lambda _: True
) -> Answer:
    """Return what `read` returns; inside `first_reading`, what it first returned.

    Args:
        kind: the question, such as `digest`.
        of: the config that it is about.
        read: finds the answer.
        fits: whether a remembered answer will do.

    Raises:
        DataError: a file was removed while it was read.
    """
    with still_there():
        if _answers is None or _reads_anew.get():
            return read()
        key = (kind, type(of).__name__, of.model_dump_json())
        if key not in _answers or not fits(_answers[key]):
            _answers[key] = read()
        return cast(Answer, _answers[key])


@contextmanager
def still_there() -> Iterator[None]:
    """Raise DataError for a file that is removed between a check and its reading."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} was removed while it was read; put it back and run again") from None
