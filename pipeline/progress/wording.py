"""Words of a run in progress, the same in a terminal, in lines and on Prefect's page."""

from __future__ import annotations

import time

from pipeline.progress.parts import TRAINING, Part, RunProgress
from pipeline.reporting.run_table import NAMES, duration
from schemas.results.manifest import Judgement

_NAMES = NAMES | {"shipping": "what you ship"}


def part_title(part: Part) -> str:
    """Name of a part for people: `hard labels only` for `hard_label_baseline`."""
    task, slash, name = part.name.rpartition("/")
    return f"{task}{slash}{_NAMES.get(name, name)}"


def clock(seconds: float) -> str:
    """Write seconds as `1:05` or `2:03:09`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def steps_of(part: Part) -> str:
    """`step 14 of 32` of a training, `14 of 32` of another activity that is counted."""
    counted = f"{part.done:,} of {part.total:,}"
    return f"step {counted}" if part.activity in (TRAINING, "scoring") else counted


def numbers_of(part: Part) -> list[str]:
    """Loss and speed of a training, once they are known."""
    numbers = []
    if part.loss is not None:
        numbers.append(f"loss {part.loss:.4g}")
    if part.speed is not None:
        numbers.append(f"{part.speed:,.0f} tokens/s")
    return numbers


def left_of_part(part: Part) -> str:
    """`about 75 s left`, or nothing where nothing is counted."""
    if not part.total:
        return ""
    left = part.left()
    return "time left not known yet" if left is None else f"about {duration(left)} left"


def left_of_run(run: RunProgress) -> str:
    """`about 12 min left`, or that it is not known yet."""
    left = run.left()
    return "time left not known yet" if left is None else f"about {duration(left)} left"


def progress_line(run: RunProgress, part: Part) -> str:
    """State of a running part in one line, such as `general: step 14 of 32, loss 4.031, about 75 s left`."""
    if not part.total:
        return f"{part_title(part)}: {part.activity} for {duration(time.monotonic() - part.since)}"
    activity = [] if part.activity in (TRAINING, "scoring") else [part.activity]
    return f"{part_title(part)}: " + ", ".join(
        [*activity, steps_of(part), *numbers_of(part), left_of_part(part), f"{left_of_run(run)} of the run"]
    )


def ended_line(part: Part) -> str | None:
    """End of a part in one line; None where an error says it."""
    result = f"; {part.result}" if part.result else ""
    if part.state == "reused":
        return f"{part_title(part)}: found in the store, reused ({part.detail}){result}"
    return f"{part_title(part)}: done in {duration(part.seconds)}{result}" if part.state == "done" else None


def judged(judgement: Judgement, metric: str | None) -> str:
    """Scores of a model in a few words: its own head's, else its probe's, and its latent loss."""
    words = []
    if judgement.task_metric is not None:
        words.append(f"{metric or 'score'} {100 * judgement.task_metric:.1f} %")
    elif judgement.probed is not None:
        words.append(f"probe {100 * judgement.probed:.1f} %")
    if judgement.latent_loss is not None:
        words.append(f"latent {judgement.latent_loss:.3f}")
    return ", ".join(words)
