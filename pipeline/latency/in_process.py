"""Latency of models in this process, on one thread: quicker than a process for each, for the end of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import torch

from pipeline.latency.measure import BUSY, Candidate, Load, in_turn
from pipeline.latency.worker import Batch, onnx_answers, timed_round, torch_answers
from schemas.core.errors import DistillError
from schemas.results.latency import Latency
from stages.models.weights import LOADING

_SECONDS = 2.0
"""Time that all rounds of the slowest model together may take, about."""
_FEWEST_CALLS = 3


def measure_here(candidates: Sequence[Candidate], load: Load, *, rounds: int) -> tuple[list[Latency], bool]:
    """Measure models, the first of which is the reference; return whether the machine was busy as well.

    Args:
        candidates: the models.
        load: batches; of these as few are used as a slow model needs.
        rounds: rounds after one that is not counted.

    Raises:
        DistillError: a model cannot be run.
    """
    with _one_thread():
        answers = {candidate.name: _opened(candidate, load.batches[0]) for candidate in candidates}
        slowest = max(_seconds(answer, load.batches[0]) for answer in answers.values())
        calls = max(_FEWEST_CALLS, min(len(load.batches), int(_SECONDS / ((rounds + 1) * slowest))))
        fewer = replace(load, batches=load.batches[:calls])
        rounds_of = {name: partial(timed_round, answer, fewer.batches) for name, answer in answers.items()}
        began, used = _machine_seconds(), time.process_time()
        latencies = in_turn(rounds_of, fewer, 1, rounds)
        total, busy = (end - start for end, start in zip(_machine_seconds(), began, strict=True))
        return latencies, busy - (time.process_time() - used) > BUSY / 100 * total


def _opened(candidate: Candidate, first: Batch) -> Callable[[Batch], Any]:
    """Open a model and have it answer a batch, for which it compiles and allocates."""
    opener = onnx_answers if candidate.path.suffix == ".onnx" else torch_answers
    try:
        with LOADING:
            answer = opener(candidate.path, 1)
        answer(first)
    except Exception as error:  # torch, transformers and ONNX Runtime raise what they like
        raise DistillError(f"{candidate.name} ({candidate.path}) cannot be run: {error}") from error
    return answer


def _seconds(answer: Callable[[Batch], Any], batch: Batch) -> float:
    began = time.perf_counter()
    answer(batch)
    return time.perf_counter() - began


def _machine_seconds() -> tuple[float, float]:
    """Return seconds of all processors since the start of the machine, and those in which they did not wait."""
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # part of user and nice
    return total, total - times.idle - getattr(times, "iowait", 0.0)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
