"""Latency of models on the same texts, in turn: each in a process of its own, all others asleep."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.latency.worker import Batch
from schemas.core.errors import DistillError
from schemas.results.latency import Latency, LatencyReport, MeasuredModel
from stages.device.processor import processor

_PROGRAM = Path(__file__).with_name("worker.py")
BUSY = 20.0
"""Percentage of the processor that other work may take before wall times mean little."""
_LOOK_SECONDS = 0.5
_WAIT_SECONDS = 300


@dataclass(frozen=True)
class Candidate:
    """A model to measure."""

    name: str
    path: Path
    """A transformers folder, or an ONNX file."""

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))


@dataclass(frozen=True)
class Load:
    """Batches of one shape."""

    batch: int
    length: int | None
    batches: list[Batch]


class Times:
    """Seconds of a model's calls, by round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wall: list[list[float]] = []
        self.processor: list[list[float]] = []

    def add(self, wall: list[float], processor: list[float]) -> None:
        """Add a round."""
        self.wall.append(wall)
        self.processor.append(processor)


@dataclass
class Worker:
    """A model's process."""

    candidate: Candidate
    process: subprocess.Popen[str]
    start_seconds: float
    peak_bytes: int = 0

    def ask(self, message: Any) -> dict[str, Any]:
        """Send a line and return the answer.

        Raises:
            DistillError: the process ended; with the last lines that it wrote.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, errors = self.process.communicate(timeout=_WAIT_SECONDS)
            reason = errors.strip().splitlines()[-1:] or ["it ended without a word"]
            raise DistillError(f"{self.candidate.name} ({self.candidate.path}) cannot be run: {reason[0]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self) -> tuple[list[float], list[float]]:
        """Answer every batch; return the seconds of each."""
        answer = self.ask("round")
        self.peak_bytes = answer["peak_bytes"]
        return answer["wall"], answer["processor"]


@contextmanager
def working(candidate: Candidate, load: Load, threads: int) -> Iterator[Worker]:
    """Start a model's process, which ends with the block."""
    began = time.perf_counter()
    # Threads of libraries that read the environment alone, before anything is imported.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), str(candidate.path), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    worker = Worker(candidate, process, 0.0)
    try:
        worker.ask(load.batches)
        worker.start_seconds = time.perf_counter() - began
        yield worker
    finally:
        process.kill()
        process.communicate()


def measure(
    candidates: Sequence[Candidate], loads: Sequence[Load], threads: Sequence[int], *, rounds: int, texts: str
) -> LatencyReport:
    """Measure models, the first of which is the reference.

    Args:
        candidates: the models.
        loads: batches of every shape.
        threads: numbers of threads.
        rounds: rounds after one that is not counted.
        texts: origin of the texts.

    Raises:
        DistillError: a model cannot be run.
    """
    is_busy = machine_is_busy()
    models: dict[str, MeasuredModel] = {}
    latencies: list[Latency] = []
    for number in threads:
        for load in loads:
            with ExitStack() as stack:
                workers = [stack.enter_context(working(candidate, load, number)) for candidate in candidates]
                latencies += in_turn({worker.candidate.name: worker.round for worker in workers}, load, number, rounds)
            for worker in workers:
                models.setdefault(worker.candidate.name, _model(worker))
    return LatencyReport(
        models=tuple(models.values()),
        latencies=tuple(latencies),
        processor=processor(),
        texts=texts,
        rounds=rounds,
        is_busy=is_busy,
    )


def machine_is_busy() -> bool:
    """Return whether programs take so much of the processor that wall times mean little; looks for half a second."""
    return float(psutil.cpu_percent(interval=_LOOK_SECONDS)) > BUSY


def _model(worker: Worker) -> MeasuredModel:
    return MeasuredModel(
        name=worker.candidate.name,
        size=worker.candidate.size,
        start_seconds=worker.start_seconds,
        peak_bytes=worker.peak_bytes,
    )


def in_turn(
    answering: Mapping[str, Callable[[], tuple[list[float], list[float]]]], load: Load, threads: int, rounds: int
) -> list[Latency]:
    """Let models answer in turn, round by round, after a round that is not counted.

    Args:
        answering: by model, a function that answers every batch and returns wall and processor seconds of each; the
            first model is the reference.
        load: the batches.
        threads: threads of a model.
        rounds: counted rounds.
    """
    times = [Times(name) for name in answering]
    for index in range(rounds + 1):
        for kept, answer in zip(times, answering.values(), strict=True):
            wall, processor_time = answer()
            if index > 0:
                kept.add(wall, processor_time)
    return [_latency(kept, times[0], load, threads) for kept in times]


def _latency(times: Times, reference: Times, load: Load, threads: int) -> Latency:
    wall = [1000 * seconds for calls in times.wall for seconds in calls]
    ratios = [
        sum(theirs) / max(sum(own), 1e-9) for theirs, own in zip(reference.processor, times.processor, strict=True)
    ]
    return Latency(
        name=times.name,
        batch=load.batch,
        length=load.length,
        threads=threads,
        wall_ms=statistics.median(wall),
        wall_ms_95=float(np.quantile(wall, 0.95)),
        processor_ms=1000 * statistics.median(seconds for calls in times.processor for seconds in calls),
        times_faster=sum(map(sum, reference.processor)) / max(sum(map(sum, times.processor)), 1e-9),
        times_faster_low=min(ratios),
        times_faster_high=max(ratios),
    )
