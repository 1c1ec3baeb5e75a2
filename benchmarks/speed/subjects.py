"""Subjects of the measurement: the yardstick and this project's loop, each in a separate process.

Separate processes have separate memory, allocators and compiled kernels, so that neither affects the other. They take
turns: all others sleep while one is measured.
"""

from __future__ import annotations

import atexit
import multiprocessing
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from benchmarks.speed.workload import OBJECTIVES, Clock, Objective, Workload
from benchmarks.speed.yardstick import Ingredients, Yardstick
from schemas.core.training import Training
from stages.models.attention_capture import CAPTURE
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import run_model
from stages.ports.plain import plain_ports
from stages.training.trainer import Trainer

Precision = Literal["fp32", "bf16"]
Kind = Literal["yardstick", "ours", "int8 teacher", "models alone", "asked once"]
_ROOM = 1 << 36


class Ours:
    """Training loop of this project."""

    def __init__(self, workload: Workload, objective: Objective, precision: Precision, *, int8: bool = False) -> None:
        auto = AutoModelForSequenceClassification if objective == "labels" else AutoModel
        torch.manual_seed(0)
        teacher = auto.from_config(deepcopy(workload.teacher), attn_implementation=CAPTURE)
        student = auto.from_config(deepcopy(workload.student), attn_implementation=CAPTURE)
        terms = ObjectiveTerms(OBJECTIVES[objective], student=student, teachers=[teacher], seed=0)
        training = Training.model_validate(
            {
                "duration": "1000000 steps",
                "precision": precision,
                "teacher_precision": "int8" if int8 else "same",
            }
        ).model_copy(update={"batch": workload.batch})
        scratch = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        ports = plain_ports(scratch, teacher_cache_bytes=_ROOM)
        self.trainer = Trainer(student, [teacher], workload.tokens, terms, training, ports, "general")

    def step(self) -> int:
        """Take one optimizer step; return the number of real tokens."""
        before = self.trainer.state.num_tokens
        self.trainer.train_step()
        return self.trainer.state.num_tokens - before

    def models_alone(self) -> int:
        """Run both models on the next step's rows, without losses, optimizer and bookkeeping."""
        trainer = self.trainer
        batches = [batch.to(trainer.runtime.device) for batch in trainer.microbatches()]
        for batch in batches:
            trainer.teachers.target(batch)
            with trainer.runtime.autocast():
                output = run_model(trainer.student, batch, trainer.objective.student_needs)
                last = output.hidden[max(output.hidden)] if output.hidden else output.logits
                if last is None:  # relations read neither; their gradient starts at the last block
                    noted = next(iter(output.recording.attention.values()))
                    last = noted.query + noted.key + noted.value
            last.float().sum().backward()
        trainer.optimizer.zero_grad(set_to_none=True)
        # Without this, each call would use the same rows, whose shapes have compiled kernels.
        trainer.state.step += 1
        return sum(batch.num_tokens for batch in batches)


@dataclass(frozen=True)
class Subject:
    """A loop with its workload, objective and precision: one line of a table."""

    name: str
    workload: Workload
    objective: Objective
    kind: Kind
    precision: Precision
    ingredients: Ingredients | None = None
    """Techniques that the yardstick uses."""

    def stepper(self) -> Callable[[], int]:
        """Return a function that runs a step and returns its number of real tokens."""
        if self.kind == "yardstick":
            return Yardstick(self.workload, self.objective, self.ingredients).step
        ours = Ours(self.workload, self.objective, self.precision, int8=self.kind == "int8 teacher")
        if self.kind == "models alone":
            return ours.models_alone
        if self.kind == "asked once":
            ours.trainer.teachers.fill_caches(
                ours.trainer.batches, ours.trainer.num_steps, ours.trainer.ports, "benchmark"
            )
            assert ours.trainer.teachers.caches, "the teacher's answers were not cached"
        return ours.step


@dataclass
class Running:
    """Handle of a subject's process."""

    subject: Subject
    connection: Connection

    def steps(self, number: int) -> tuple[int, float]:
        """Run a number of steps; return their real tokens and seconds."""
        self.connection.send(number)
        answer: tuple[int, float] = self.connection.recv()
        return answer

    def peak_bytes(self) -> int:
        """Return the peak memory in bytes: on the device if there is one, otherwise resident."""
        self.connection.send("peak")
        answer: int = self.connection.recv()
        return answer


@contextmanager
def started(subjects: Sequence[Subject]) -> Iterator[list[Running]]:
    """Start the subjects' processes, which end with the block."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    running: list[Running] = []
    processes: list[BaseProcess] = []
    try:
        for subject in subjects:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, subject), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            running.append(Running(subject, ours))
        for each in running:  # models are built in parallel
            each.connection.recv()
        yield running
    finally:
        for each in running:
            each.connection.close()
        for process in processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _serve(connection: Connection, subject: Subject) -> None:
    stepper, clock = subject.stepper(), Clock(subject.workload.device)
    connection.send("ready")
    while True:
        try:
            wanted = connection.recv()
        except EOFError:
            return
        if wanted == "peak":
            connection.send(_peak_bytes(subject.workload.device))
            continue
        began = clock.now()
        tokens = sum(stepper() for _ in range(wanted))
        connection.send((tokens, clock.now() - began))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` below is inherited from the parent
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
