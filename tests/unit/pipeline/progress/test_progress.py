"""The course of a run: its parts, the time left, its lines and its display on terminals of several widths."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from pipeline.progress import display, lines, parts
from pipeline.progress.display import Display, is_live
from pipeline.progress.lines import Lines
from pipeline.progress.parts import RunProgress
from schemas.core.errors import Interrupted


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (parts, lines, display):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr("pipeline.progress.wording.time", clock)
    return clock


def train(run: RunProgress, clock: Clock, steps: int, seconds: float, total: int = 10) -> None:
    for step in range(1, steps + 1):
        clock.now += seconds
        run.advance(step, {"train/loss": 2.5, "train/tokens_per_second": 1200.0})


def test_time_left_follows_from_the_measured_speed_and_the_operations_that_remain(clock: Clock) -> None:
    run = RunProgress()
    run.expect({"teacher": 10.0, "general": 20.0, "task_specific": 40.0, "shipping": 0.0})
    assert run.left() is None  # nothing is measured yet
    with run.part("teacher") as part:
        clock.now += 3  # starting
        run.start("teacher", 10)
        assert (part.left(), run.left()) == (None, None)
        train(run, clock, 5, 1.0)
        assert part.left() == pytest.approx(5.0)
        assert run.left() == pytest.approx(5.0 + 60.0)  # an operation a second
        clock.now += 0.5
        run.phase("scoring")
        clock.now += 100.0
        run.advance(6, {})
        assert part.trained == pytest.approx(5.5)  # without scoring
        for step in range(7, 11):
            clock.now += 1.125
            run.advance(step, {})
        run.phase("judging")
        clock.now += 2
    assert part.seconds == pytest.approx(3 + 10 + 100 + 2)
    # 105 seconds of it were no training; each of three parts ahead is expected to have as many.
    assert run.left() == pytest.approx(60.0 + 3 * 105.0)


def test_a_resumed_stage_is_measured_by_its_own_steps_and_a_reused_one_by_nothing(clock: Clock) -> None:
    run = RunProgress()
    run.expect({"general": 100.0, "task_specific": 50.0})
    with run.part("general") as part:
        run.start("general, teacher", 4)
        assert (part.activity, part.rest) == ("asking the teacher", 1.0)
        run.start("general", 100, 60)
        for step in (61, 62):
            clock.now += 2.0
            run.advance(step, {})
        assert part.left() == pytest.approx(38 * 2.0)
        assert run.left() == pytest.approx(38 * 2.0 + 50 * 2.0)
    assert part.state == "done"
    with run.part("task_specific") as part:
        part.detail = "/store/task_specific-1"
    assert part.state == "reused"


@pytest.mark.parametrize(("error", "state"), [(Interrupted("x"), "stopped"), (ValueError("x"), "failed")])
def test_a_part_that_ends_early_says_so(error: Exception, state: str) -> None:
    run = RunProgress()
    run.expect({"general": None})
    with pytest.raises(type(error)), run.part("general"):
        raise error
    assert run.parts["general"].state == state
    assert run.left() is not None or run.current is None


def test_lines_tell_each_change_once_and_progress_once_a_minute(clock: Clock) -> None:
    said: list[str] = []
    view = Lines(said.append)
    run = RunProgress()
    run.views, run.title = [view], "films"
    run.phase("checking models and data")
    run.expect({"mrpc/hard_label_baseline": 100.0})
    with run.part("mrpc/hard_label_baseline") as part:
        run.phase("reading data")
        run.start("hard_label_baseline", 100)
        for step in range(1, 91):
            clock.now += 1.0
            run.advance(step, {"train/loss": 2.5, "train/tokens_per_second": 1200.0})
            view.tick(run)
        run.phase("judging")
        clock.now += 61
        view.tick(run)
        part.result = "accuracy 71.7 %"
    assert said == [
        "films: checking models and data",
        "mrpc/hard labels only: starting",
        "mrpc/hard labels only: step 0 of 100",
        "mrpc/hard labels only: step 60 of 100, loss 2.5, 1,200 tokens/s, about 40 s left, about 40 s left of the run",
        "mrpc/hard labels only: judging",
        "mrpc/hard labels only: judging for 61 s",
        "mrpc/hard labels only: done in 2.5 min; accuracy 71.7 %",
    ]


def test_what_was_said_of_one_seed_is_not_repeated_for_another(clock: Clock) -> None:
    said: list[str] = []
    run = RunProgress([Lines(said.append)])
    for seed in ("seed0", "seed1"):
        with run.of_task(seed):
            run.note("teacher: weak")
            run.note(f"student of {seed}")
            run.note(f"student of {seed}")
    run.note("teacher: weak")
    run.close()
    assert said == [
        "seed0: teacher: weak",
        *["seed0: student of seed0"] * 2,
        *["seed1: student of seed1"] * 2,
        "teacher: weak",
    ]


def drawn(run: RunProgress, width: int, height: int = 24, **options: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, **options)  # type: ignore[arg-type]
    view = Display(console)
    view.run = run
    with console.capture() as capture:
        console.print(view._rendered())
    return capture.get().splitlines()


@pytest.fixture
def films(clock: Clock) -> Iterator[RunProgress]:
    run = RunProgress()
    run.title = "films on imdb"
    run.expect(dict.fromkeys(("teacher", "general_enhanced", "task_adaptive", "hard_label_baseline", "shipping"), 1.0))
    with run.part("teacher") as part:
        part.result, part.detail = "accuracy 96.7 %", "/store/teacher"
    with run.part("general_enhanced"):
        run.start("general_enhanced", 1000)
        train(run, clock, 250, 1.0, 1000)
        yield run


def test_a_terminal_of_80_columns_shows_every_part_and_what_it_does(films: RunProgress) -> None:
    lines = drawn(films, 80, no_color=True)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]
    assert plain == [
        "films on imdb                                  4:10 so far, about 62.5 min left",
        "teacher           reused     accuracy 96.7 %",
        "general_enhanced  training   ━━━━━─────────────── step 250 of 1,000",
        "                  loss 2.5, 1,200 tokens/s, about 12.5 min left",
        "task_adaptive     waiting",
        "hard labels only  waiting",
        "what you ship     waiting",
    ]
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", "".join(lines))  # NO_COLOR


@pytest.mark.parametrize("width", [20, 40, 200])
def test_no_line_is_longer_than_the_window_or_than_what_may_shrink_unharmed(films: RunProgress, width: int) -> None:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn(films, width)]
    assert max(map(len, lines)) <= min(width - 1, 90)
    text = " ".join(" ".join(lines).split())
    if width >= 40:
        assert "step 250 of 1,000" in text
        assert text.count("min left") == 2  # of the part and of the run


def test_a_low_window_counts_the_parts_that_it_cannot_show(clock: Clock) -> None:
    run = RunProgress()
    run.expect({f"task{number}/general": 1.0 for number in range(30)})
    for number in range(15):
        with run.part(f"task{number}/general"):
            pass
    with run.part("task15/general"):
        lines = drawn(run, 80, 12)
    assert len(lines) <= 11
    assert any("starting" in line for line in lines)
    assert "before" in lines[1]
    assert "more" in lines[-1]


@pytest.mark.parametrize(
    ("changes", "live"), [({}, True), ({"TERM": "dumb"}, False), ({"CI": "true"}, False), ({"NO_COLOR": "1"}, True)]
)
def test_the_display_needs_a_terminal_that_a_person_watches(
    changes: dict[str, str], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color"} | changes).items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        assert is_live(Console(file=terminal)) is live
    os.close(ours)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live(Console(file=io.StringIO()))
