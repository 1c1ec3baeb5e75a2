"""Answers remembered during a run are forgotten when all runs of a process have ended."""

from __future__ import annotations

from contextlib import ExitStack

from schemas.data.tasks import DocstringTask
from stages.data.readers.first_reading import as_it_is_now, first_reading, read_once


def test_answers_are_forgotten_once_the_last_overlapping_run_ends() -> None:
    answers = iter(range(9))

    def read() -> int:
        return read_once("digest", DocstringTask(), lambda: next(answers))

    first, second = ExitStack(), ExitStack()
    first.enter_context(first_reading())
    assert (read(), read()) == (0, 0)
    second.enter_context(first_reading())
    first.close()  # in the order in which they began, as runs in threads may
    assert read() == 0
    with as_it_is_now():
        assert read() == 1
    assert read() == 0
    second.close()
    assert (read(), read()) == (2, 3)
