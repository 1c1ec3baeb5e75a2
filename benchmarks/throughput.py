"""Real tokens per second of one training step, against a yardstick and against what the matrices alone would take.

    python -m benchmarks.throughput --json throughput.json

Everything is measured in one run, interleaved round by round, so that ratios hold though the machine's speed drifts.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoModelForSequenceClassification

from benchmarks.workload import (
    OBJECTIVES,
    SHAPES,
    Clock,
    MatrixRates,
    Objective,
    Shape,
    Workload,
    attention_flops,
    linear_flops,
    make_workload,
)
from benchmarks.yardstick import Ingredients, Yardstick
from schemas.training import Training
from stages.capture import CAPTURE
from stages.objectives import ObjectiveTerms
from stages.runtime import bf16_in_hardware
from stages.terms import run_model
from stages.trainer import Trainer
from tests.fakes import fake_ports

Precision = Literal["fp32", "bf16"]
NUMBERS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A variant's share of a round: as many steps as fit, one at least.
SECONDS_PER_ROUND = 1.5


class Stepper(Protocol):
    """Something that trains a step at a time."""

    def step(self) -> int:
        """One optimizer step; the real tokens it saw."""


class Ours:
    """The project's own loop."""

    def __init__(self, workload: Workload, objective: Objective, precision: Precision) -> None:
        auto = AutoModelForSequenceClassification if objective == "labels" else AutoModel
        torch.manual_seed(0)
        teacher = auto.from_config(deepcopy(workload.teacher), attn_implementation=CAPTURE)
        student = auto.from_config(deepcopy(workload.student), attn_implementation=CAPTURE)
        terms = ObjectiveTerms(OBJECTIVES[objective], student=student, teachers=[teacher], seed=0)
        training = Training.model_validate(
            {"duration": "1000000 steps", "precision": precision, "optimizer": {}}
        ).model_copy(update={"batch": workload.batch})
        scratch = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        ports = fake_ports(scratch)
        self.trainer = Trainer(student, [teacher], workload.tokens, terms, training, ports)

    def step(self) -> int:
        """One optimizer step; the real tokens it saw."""
        before = self.trainer.num_tokens
        self.trainer.train_step()
        return self.trainer.num_tokens - before

    def models_alone(self) -> int:
        """Both models' passes over the next step's rows, without losses, optimizer and bookkeeping."""
        trainer = self.trainer
        batches = [batch.to(trainer.runtime.device) for batch in trainer.microbatches()]
        for batch in batches:
            trainer.target(batch)
            with trainer.runtime.autocast():
                output = run_model(trainer.student, batch, trainer.objective.student_needs)
                last = output.hidden[max(output.hidden)] if output.hidden else output.logits
                if last is None:  # relations read neither: their gradient begins at the last block
                    noted = next(iter(output.recording.attention.values()))
                    last = noted.query + noted.key + noted.value
            last.float().sum().backward()
        trainer.optimizer.zero_grad(set_to_none=True)
        return sum(batch.num_tokens for batch in batches)


@dataclass
class Variant:
    """One line of a table."""

    name: str
    stepper: Callable[[], int]
    precision: Precision
    steps: int = 1
    rates: list[float] = field(default_factory=list)
    """Real tokens per second, one per round."""
    step_seconds: list[float] = field(default_factory=list)

    def warm_up(self, clock: Clock) -> None:
        """Two steps, the second of them timed to find how many make a round."""
        self.stepper()
        began = clock.now()
        self.stepper()
        self.steps = max(1, round(SECONDS_PER_ROUND / max(clock.now() - began, 1e-6)))

    def round(self, clock: Clock) -> None:
        """One round's steps."""
        began = clock.now()
        tokens = sum(self.stepper() for _ in range(self.steps))
        elapsed = clock.now() - began
        self.rates.append(tokens / elapsed)
        self.step_seconds.append(elapsed / self.steps)


def variants_of(
    workload: Workload, objective: Objective, precisions: list[Precision], *, alone: bool
) -> list[Variant]:
    """The yardstick first, then each ingredient alone if asked for, then ours."""
    found = [Variant("yardstick", Yardstick(workload, objective).step, "fp32")]
    if alone:
        single: dict[str, Ingredients] = {
            "+ length groups": Ingredients(grouped=True),
            "+ fused attention, mapped blocks only": Ingredients(captured=True),
            "+ fused optimizer": Ingredients(fused=True),
        }
        if "bf16" in precisions:
            single["+ bf16"] = Ingredients(bf16=True)
        for name, taken in single.items():
            number: Precision = "bf16" if taken.bf16 else "fp32"
            found.append(Variant(name, Yardstick(workload, objective, taken).step, number))
    for precision in precisions:
        ours = Ours(workload, objective, precision)
        found.append(Variant(f"ours, {precision}", ours.step, precision))
        found.append(Variant(f"ours, {precision}, models alone", ours.models_alone, precision))
    return found


def floor_rate(
    workload: Workload, rates: dict[tuple[str, Precision], float], precision: Precision
) -> float:
    """Real tokens per second if only matrix products took time: one pass of the teacher, three of the student."""
    seconds = 0.0
    for name, config, passes in (
        ("teacher", workload.teacher, 1),
        ("student", workload.student, 3),
    ):
        flops = linear_flops(config) + attention_flops(config, workload.mean_length)
        seconds += passes * flops / rates[name, precision]
    return 1 / seconds


def measure(
    shape: Shape, objective: Objective, precisions: list[Precision], rounds: int, *, alone: bool
) -> list[dict[str, Any]]:
    """Every variant's rates, ratios and share of the floor."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock, workload = Clock(device), make_workload(shape, device)
    variants = variants_of(workload, objective, precisions, alone=alone)
    for variant in variants:
        variant.warm_up(clock)
    matrices = MatrixRates(device, round(workload.batch.amount))
    floors: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for _ in range(rounds):
        for variant in variants:
            variant.round(clock)
        for precision in precisions:
            rates = {
                (name, precision): matrices.measure(config, NUMBERS[precision])
                for name, config in (("teacher", workload.teacher), ("student", workload.student))
            }
            floors[precision].append(floor_rate(workload, rates, precision))
    yardstick = variants[0]
    return [
        {
            "shape": shape,
            "objective": objective,
            "variant": variant.name,
            "tokens_per_second": variant.rates,
            "ratio": [a / b for a, b in zip(variant.rates, yardstick.rates, strict=True)],
            "share_of_floor": [
                a / b
                for a, b in zip(variant.rates, floors.get(variant.precision, []), strict=False)
            ],
            "step_seconds": variant.step_seconds,
        }
        for variant in variants
    ]


def peak_memory(shape: Shape, objective: Objective, variant: str) -> int:
    """Bytes that three steps in a process of their own take at most: resident, or on the device where there is one."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.throughput",
        "--peak",
        f"{shape},{objective},{variant}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def print_peak(wanted: str) -> None:
    """Run three steps of one variant and print this process's peak."""
    shape, objective, name = wanted.split(",")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workload = make_workload(shape, device)  # type: ignore[arg-type]
    stepper: Stepper = (
        Yardstick(workload, objective)  # type: ignore[arg-type]
        if name == "yardstick"
        else Ours(workload, objective, name)  # type: ignore[arg-type]
    )
    for _ in range(3):
        stepper.step()
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device))
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def show(results: list[dict[str, Any]], console: Console) -> None:
    """A table for each shape and objective: medians, and the spread of the ratio."""
    for shape, objective in dict.fromkeys((row["shape"], row["objective"]) for row in results):
        table = Table(
            title=f"{shape}, {objective}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("", no_wrap=True)
        for name in ("tokens/s", "times the yardstick", "of the floor", "ms a step", "peak MiB"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in results:
            if (row["shape"], row["objective"]) != (shape, objective):
                continue
            ratio = row["ratio"]
            table.add_row(
                row["variant"],
                f"{statistics.median(row['tokens_per_second']):,.0f}",
                f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
                f"{statistics.median(row['share_of_floor']):.2f}" if row["share_of_floor"] else "",
                f"{1000 * statistics.median(row['step_seconds']):.0f}",
                f"{row['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in row else "",
            )
        console.print(table)


def described(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with what they were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "results": results,
    }


def main(
    shapes: Annotated[str, typer.Option(help="Shapes, separated by commas.")] = "small,base",
    objectives: Annotated[str, typer.Option(help="Objectives.")] = "latent,labels,relations",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with every variant.")] = 5,
    precisions: Annotated[str, typer.Option(help="fp32, bf16, or auto.")] = "auto",
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    peak: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the speed of a training step."""
    if peak is not None:
        return print_peak(peak)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: list[Precision] = ["fp32", "bf16"] if bf16_in_hardware(device) else ["fp32"]
    if precisions != "auto":
        chosen = [each for each in get_args(Precision) if each in precisions.split(",")]
    results: list[dict[str, Any]] = []
    console = Console(width=None if sys.stdout.isatty() else 120)
    for shape in (each for each in SHAPES if each in shapes.split(",")):
        for objective in (each for each in OBJECTIVES if each in objectives.split(",")):
            alone = objective == "latent"
            found = measure(shape, objective, chosen, rounds, alone=alone)
            if memory and alone:
                for row in found:
                    name = row["variant"].removeprefix("ours, ")
                    if name in ("yardstick", *chosen):
                        row["peak_bytes"] = peak_memory(shape, objective, name)
            show(found, console)
            results += found
    if output is not None:
        output.write_text(json.dumps(described(results), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
