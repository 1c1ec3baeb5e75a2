"""Time of a step by the cost model that `distill plan` uses, against the steps that `benchmarks.scaling` measured.

    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.speed.cost_model scaling.json

The model starts from the rate of a matrix product in one process, and from the connection that
stages/preflight/groups.py assumes. `plan` takes the share of that rate that a step reaches from earlier trials; "own
share" takes it from the measured steps of one process, and predicts the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from benchmarks.output import console, table_of
from benchmarks.speed.workload import SHAPES, make_workload
from schemas.recipe.parts import Launch
from schemas.recipe.student import StudentShape
from stages.preflight.cost import EFFICIENCY
from stages.preflight.groups import group_of
from stages.preflight.scale import operations_per_token

Round = Mapping[str, float]


def operations(tokens: float) -> float:
    """Return the operations of the workload's encoders for some tokens."""
    length = make_workload("small", torch.device("cpu")).mean_length
    teacher, student = (
        operations_per_token(
            StudentShape(num_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner),
            length,
        )
        for layers, width, heads, inner in SHAPES["small"]
    )
    return tokens * (teacher + 3 * student)


def predicted(rounds: Sequence[Round], steps: int, rate: float) -> float:
    """Return the seconds of a step in as many processes as these rounds had.

    Args:
        rounds: measured, for their tokens and the size of the gradient.
        steps: steps of a round.
        rate: operations per second of a step in one process that has the machine for itself.
    """
    first = rounds[0]
    group = group_of(Launch(processes=int(first["processes"])), rate)
    return group.seconds(operations(first["tokens"]), steps, 4 * first["numbers"]) / steps


def measured_step(rounds: Sequence[Round], steps: int) -> float:
    """Return the median seconds of a step."""
    return median(one["wall"] for one in rounds) / steps


def compared(results: Mapping[str, Sequence[Round]], steps: int) -> list[dict[str, float]]:
    """Return measured and predicted seconds of a step for each number of processes, one process first."""
    results = {name: rounds for name, rounds in results.items() if name != "before"}
    first = next(iter(results.values()))
    rate = median(one["rate"] for one in first)
    share = operations(first[0]["tokens"]) / (measured_step(first, steps) * steps * rate)
    rows = []
    for rounds in results.values():
        rows.append(
            {
                "processes": rounds[0]["processes"],
                "measured": measured_step(rounds, steps),
                "plan": predicted(rounds, steps, rate * EFFICIENCY),
                "own": predicted(rounds, steps, rate * share),
                "exchange": median(one["exchange"] for one in rounds),
                "sum": median(one["sum"] for one in rounds),
                "model_exchange": predicted(rounds, steps, 1e30),
                "share": share,
            }
        )
    return rows


def main(file: Annotated[Path, typer.Argument(help="What benchmarks.scaling wrote.")]) -> None:
    """Compare the model's time of a step with the measured one."""
    described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = compared(described["results"]["rounds"], described["results"]["steps"])
    table = table_of("processes", "measured, ms", "plan", "error", "own share", "error", "exchange", "model")
    for row in rows:
        table.add_row(
            f"{row['processes']:.0f}",
            f"{1e3 * row['measured']:.0f}",
            *_against(row["plan"], row["measured"]),
            *_against(row["own"], row["measured"]),
            f"{1e3 * row['exchange']:.1f} + 5 × {1e3 * row['sum']:.2f}"
            if row["exchange"] and row["processes"] > 1
            else "–",
            f"{1e3 * row['model_exchange']:.1f}",
        )
    console().print(table)
    console().print(f"processor: {described['processor']}, commit {described['commit']}, {described['date']}")
    console().print(f"share of the matrix rate: {EFFICIENCY} in plan, {rows[0]['share']:.2f} in these steps")


def _against(predicted: float, measured: float) -> tuple[str, str]:
    return f"{1e3 * predicted:.0f}", f"{100 * (predicted / measured - 1):+.0f} %"


if __name__ == "__main__":
    typer.run(main)
