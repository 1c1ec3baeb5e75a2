"""Speed of a training step in real tokens per second, against a plain loop and against the matrix products alone.

    python -m benchmarks.throughput --json throughput.json

All subjects are measured in one run, interleaved round by round, so that ratios hold even if the machine's speed
drifts. A ratio is of all tokens over all seconds; its spread is that of the rounds. Rows, and therefore steps, differ
in length.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer

from benchmarks.output import console, table_of, write_json
from benchmarks.speed.subjects import Precision, Running, Subject, started
from benchmarks.speed.workload import (
    OBJECTIVES,
    SHAPES,
    MatrixRates,
    Objective,
    Shape,
    Workload,
    attention_flops,
    linear_flops,
    make_workload,
)
from benchmarks.speed.yardstick import Ingredients
from stages.device.processor import processor
from stages.device.runtime import bf16_in_hardware

NUMBERS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Duration of a subject's part of a round, and its least number of steps. The targets are set on the first objective.
SECONDS_PER_ROUND: dict[Objective, float] = {"latent": 1.5, "labels": 0.8, "relations": 0.8}
LEAST_STEPS: dict[Objective, int] = {"latent": 2, "labels": 1, "relations": 1}
# Few rows for the cached teacher, because its answers are computed before anything is measured.
ROWS_ASKED_ONCE = 256


@dataclass
class Line:
    """Measurements of one subject."""

    running: Running
    steps: int = 1
    tokens: list[int] = field(default_factory=list)
    """Real tokens, one number per round."""
    seconds: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Run two steps, the second of them timed to choose the number of steps per round."""
        objective = self.running.subject.objective
        self.running.steps(1)
        _, elapsed = self.running.steps(1)
        fitting = round(SECONDS_PER_ROUND[objective] / max(elapsed, 1e-6))
        self.steps = max(LEAST_STEPS[objective], fitting)

    def round(self) -> None:
        """Run the steps of a round."""
        tokens, elapsed = self.running.steps(self.steps)
        self.tokens.append(tokens)
        self.seconds.append(elapsed)

    @property
    def rates(self) -> list[float]:
        """Real tokens per second, one per round."""
        return [tokens / elapsed for tokens, elapsed in zip(self.tokens, self.seconds, strict=True)]

    @property
    def rate(self) -> float:
        """Real tokens per second of all rounds together."""
        return sum(self.tokens) / sum(self.seconds)


def subjects_of(workload: Workload, objective: Objective, precisions: list[Precision], *, alone: bool) -> list[Subject]:
    """Return the yardstick, then the yardstick with each ingredient if `alone`, then ours."""

    def plain(name: str, ingredients: Ingredients | None = None) -> Subject:
        number: Precision = "bf16" if ingredients and ingredients.bf16 else "fp32"
        return Subject(name, workload, objective, "yardstick", number, ingredients)

    found = [plain("yardstick")]
    if alone:
        found += [
            plain("+ length groups", Ingredients(grouped=True)),
            plain("+ fused attention, mapped blocks only", Ingredients(captured=True)),
            plain("+ fused optimizer", Ingredients(fused=True)),
        ]
        if "bf16" in precisions:
            found.append(plain("+ bf16", Ingredients(bf16=True)))
    for number in precisions:
        found.append(Subject(f"ours, {number}", workload, objective, "ours", number))
        if workload.device.type == "cpu":
            found.append(Subject(f"ours, {number}, int8 teacher", workload, objective, "int8 teacher", number))
        name = f"ours, {number}, models alone"
        found.append(Subject(name, workload, objective, "models alone", number))
    return found


def asked_once_subjects(workload: Workload, objective: Objective, precision: Precision) -> list[Subject]:
    """Return two subjects of the same few rows: the teacher runs in every step, or its answers are cached."""
    few = replace(workload, tokens=workload.tokens.first(ROWS_ASKED_ONCE))
    names = {"ours": "asked in every epoch", "asked once": "asked once"}
    return [
        Subject(f"{precision}, teacher {name}", few, objective, kind, precision)  # type: ignore[arg-type]
        for kind, name in names.items()
    ]


def floor_rate(workload: Workload, rates: dict[tuple[str, Precision], float], precision: Precision) -> float:
    """Return real tokens per second if only matrix products took time: one teacher pass, three student passes."""
    seconds = 0.0
    for name, config, passes in (("teacher", workload.teacher, 1), ("student", workload.student, 3)):
        flops = linear_flops(config) + attention_flops(config, workload.mean_length)
        seconds += passes * flops / rates[name, precision]
    return 1 / seconds


def measure(subjects: list[Subject], precisions: list[Precision], rounds: int, *, memory: bool) -> list[dict[str, Any]]:
    """Return every subject's rates, ratios to the first subject, and share of the floor."""
    workload = subjects[0].workload
    with started(subjects) as running:
        lines = [Line(each) for each in running]
        for line in lines:
            line.warm_up()
        matrices = MatrixRates(workload.device, round(workload.batch.amount))
        floors: dict[Precision, list[float]] = {precision: [] for precision in precisions}
        for _ in range(rounds):
            for line in lines:
                line.round()
            for precision in precisions:
                rates = {
                    (name, precision): matrices.measure(config, NUMBERS[precision])
                    for name, config in (("teacher", workload.teacher), ("student", workload.student))
                }
                floors[precision].append(floor_rate(workload, rates, precision))
        peaks = [line.running.peak_bytes() if memory else None for line in lines]
    return [described_line(line, lines[0], floors, peak) for line, peak in zip(lines, peaks, strict=True)]


def described_line(line: Line, first: Line, floors: dict[Precision, list[float]], peak: int | None) -> dict[str, Any]:
    """Return the numbers of a subject, as written and shown."""
    subject = line.running.subject
    floor = floors.get(subject.precision)
    return {
        "objective": subject.objective,
        "variant": subject.name,
        "tokens_per_second": line.rates,
        "seconds": line.seconds,
        "steps": line.steps,
        "rate": line.rate,
        "ratio": line.rate / first.rate,
        "ratios": [own / other for own, other in zip(line.rates, first.rates, strict=True)],
        "share_of_floor": line.rate * len(floor) / sum(floor) if floor else None,
        "peak_bytes": peak,
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table of one shape and objective, and the time that our steps spend outside the models."""
    first = rows[0]["variant"]
    table = table_of("", "tokens/s", f"times the {first}", "of the floor", "ms a step", "peak MiB", title=title)
    for row in rows:
        share, peak = row["share_of_floor"], row["peak_bytes"]
        table.add_row(
            row["variant"],
            f"{row['rate']:,.0f}",
            f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
            "" if share is None else f"{share:.2f}",
            f"{1000 * step_seconds(row):.0f}",
            "" if peak is None else f"{peak / 2**20:,.0f}",
        )
    console().print(table)
    named = {row["variant"]: row for row in rows}
    for name, row in named.items():
        if (alone := named.get(f"{name}, models alone")) is not None:
            share = 1 - row["rate"] / alone["rate"]
            console().print(
                f"{name}: {1000 * share * step_seconds(row):.0f} ms a step ({100 * share:.0f} %) outside the models"
            )


def step_seconds(row: dict[str, Any]) -> float:
    """Return the mean seconds of a step."""
    mean: float = sum(row["seconds"]) / (len(row["seconds"]) * row["steps"])
    return mean


def main(
    shapes: Annotated[str, typer.Option(help="Shapes, separated by commas.")] = "small,base",
    objectives: Annotated[str, typer.Option(help="Objectives.")] = "latent,labels,relations",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with every variant.")] = 5,
    precisions: Annotated[str, typer.Option(help="fp32, bf16, or auto.")] = "auto",
    alone: Annotated[str, typer.Option(help="Shapes with each ingredient alone.")] = "small",
    memory: Annotated[bool, typer.Option(help="Print peak memory too.")] = True,
    asked_once: Annotated[bool, typer.Option(help="Compare with a teacher that is asked once.")] = True,
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Measure the speed of a training step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: list[Precision] = ["fp32", "bf16"] if bf16_in_hardware(device) else ["fp32"]
    if precisions != "auto":
        chosen = [each for each in get_args(Precision) if each in precisions.split(",")]
    console().print(f"processor: {processor()}")
    wanted_shapes = [each for each in SHAPES if each in shapes.split(",")]
    wanted = [each for each in OBJECTIVES if each in objectives.split(",")]
    if not (chosen and wanted_shapes and wanted):
        raise typer.BadParameter(
            f"choose shapes from {', '.join(SHAPES)}, objectives from {', '.join(OBJECTIVES)}, precisions from "
            f"{', '.join(get_args(Precision))}"
        )
    results: list[dict[str, Any]] = []

    def add(shape: Shape, title: str, subjects: list[Subject], numbers: list[Precision]) -> None:
        rows = measure(subjects, numbers, rounds, memory=memory)
        show(title, rows)
        results.extend({"shape": shape, "table": title} | row for row in rows)

    for shape in wanted_shapes:
        workload = make_workload(shape, device)
        for objective in wanted:
            with_parts = objective == "latent" and shape in alone.split(",")
            subjects = subjects_of(workload, objective, chosen, alone=with_parts)
            add(shape, f"{shape}, {objective}", subjects, chosen)
            if asked_once and objective == "latent":
                title = f"{shape}, {objective}, a later epoch"
                add(shape, title, asked_once_subjects(workload, objective, chosen[-1]), [])
    write_json(output, results)


if __name__ == "__main__":
    typer.run(main)
