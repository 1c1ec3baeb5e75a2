"""The comparison of ways to 8-bit integers counts flipped answers over seeds."""

from __future__ import annotations

import pytest

from benchmarks.int8_quality import AFTER, TRAINED, Int8Result, summarise


def result(way: str, seed: int, flipped: int) -> Int8Result:
    return Int8Result(
        "",
        "toy",
        way,
        seed,
        "accuracy",
        200,
        0.8,
        0.79,
        (-0.01, -0.02, 0.0),
        flipped,
        0.1,
        "dynamic",
        5000,
        10 * flipped,
    )


def test_the_share_that_is_kept_is_over_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    summarise([result(AFTER, 0, 10), result(AFTER, 1, 6), result(TRAINED, 0, 2), result(TRAINED, 1, 4)])
    printed = capsys.readouterr().out
    assert "toy: 8.0 flipped answers a seed, trained for 8 bits 3.0: kept 62 %" in printed
    assert "80.0 flipped answers a seed of 5,000 unread texts, trained for 8 bits 30.0: kept 62 %" in printed


def test_nothing_is_divided_by_no_flips(capsys: pytest.CaptureFixture[str]) -> None:
    summarise([result(AFTER, 0, 0), result(TRAINED, 0, 1)])
    assert "none were flipped" in capsys.readouterr().out
