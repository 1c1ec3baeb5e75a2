"""Speed of 1, 2 and 4 processes that share the rows of a step, and of one process before and after a change.

    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.scaling --before ../checkout-of-before --processes 1

Every round trains the same steps of the `small` workload in new processes, one variant after the other. Processes of a
round share the cores. Efficiency is the tokens per second of wall time, and per second of processor time, relative to
one process. With `--before`, a variant `before` runs one process with the code of another checkout.

After its steps, every process measures what the cost model of a stage starts from (stages/preflight/scale.py): the rate
of a matrix product while the others measure theirs, and the time of one exchange of the gradient and of one sum of a
few numbers. `python -m benchmarks.speed.cost_model scaling.json` compares the model's times with these.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stages.ports.world import World
    from stages.training.trainer import Trainer

_ROOT = Path(__file__).resolve().parents[1]
Round = dict[str, float]


def child(rank: int, size: int, meeting: str, steps: int) -> None:
    """Train some steps in this process, with others if `size` is larger than 1; print seconds and tokens as JSON."""
    import torch

    try:
        from benchmarks.speed.subjects import Ours
        from benchmarks.speed.workload import make_workload
    except ImportError:  # of a checkout of earlier versions
        from benchmarks.subjects import Ours
        from benchmarks.workload import make_workload

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // size))
    trainer = (ours := Ours(make_workload("small", torch.device("cpu")), "latent", "fp32")).trainer
    if size > 1:
        from stages.device.process_group import ProcessGroup

        trainer.world = ProcessGroup(rank, size, meeting, minutes=10)
    with trainer.world.joined():
        measured = _measure(ours.step, steps)
        print(json.dumps(measured | _of_parts(trainer)))


def _measure(step: Callable[[], int], steps: int) -> Round:
    step()  # compiles and reserves memory
    processor, wall = time.process_time(), time.perf_counter()
    tokens = sum(step() for _ in range(steps))
    return {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall, "tokens": tokens}


def _of_parts(trainer: Trainer) -> Round:
    """Measure what a step consists of, at the same time in all processes."""
    from stages.preflight.cost import matrix_rate

    trainer.gradient()
    gradients = [parameter for parameter in trainer.parameters.values() if parameter.grad is not None]
    numbers = sum(parameter.numel() for parameter in gradients)
    return {
        "rate": matrix_rate("fp32"),
        "numbers": numbers,
        "exchange": _seconds(lambda: trainer.world.sum_gradients(gradients), trainer.world, repeats=10),
        "sum": _seconds(lambda: trainer.world.summed([0.0, 0.0]), trainer.world, repeats=200),
    }


def _seconds(work: Callable[[], object], world: World, *, repeats: int) -> float:
    """Return the mean time of some work that all processes begin together."""
    work()
    world.summed([0.0])
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def measured(size: int, steps: int, tree: Path) -> Round:
    """Return seconds and tokens of one round of `size` processes with the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(tree), "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "group").as_uri()
        program = [sys.executable, "-P", __file__, "--child"]
        children = [
            subprocess.Popen(
                [*program, str(rank), str(size), meeting, str(steps)],
                env=environment,
                cwd=tree,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        texts = [process.communicate()[0] for process in children]
    if any(process.returncode for process in children):
        raise typer.Exit(1)
    rounds: list[Round] = [json.loads(text.splitlines()[-1]) for text in texts]
    # Every process knows the tokens of all, and has the whole gradient.
    return {
        "processor": sum(values["processor"] for values in rounds),
        "wall": max(values["wall"] for values in rounds),
        "tokens": rounds[0]["tokens"],
        "processes": size,
        "rate": sum(values.get("rate", 0.0) for values in rounds),
        "numbers": rounds[0].get("numbers", 0),
        "exchange": max(values.get("exchange", 0.0) for values in rounds),
        "sum": max(values.get("sum", 0.0) for values in rounds),
    }


def main(
    processes: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2,4",
    before: Annotated[Path | None, typer.Option(help="A checkout from before a change.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which every variant trains once.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of a round.")] = 10,
    output: Annotated[Path | None, typer.Option("--json", help="File for the results.")] = None,
) -> None:
    """Measure how the speed of a stage grows with the number of its processes."""
    from benchmarks.output import console, median_and_range, table_of, write_json

    variants = {f"{size} process{'es' * (size > 1)}": (size, _ROOT) for size in map(int, processes.split(","))}
    if before is not None:
        variants = {"before": (1, before.resolve())} | variants
    results: dict[str, list[Round]] = {name: [] for name in variants}
    for number in range(rounds):
        order = list(variants.items())
        for name, (size, tree) in order if number % 2 == 0 else reversed(order):
            results[name].append(measured(size, steps, tree))
    table = table_of("variant", "tokens/s", "wall: times the first", "processor s", "tokens per processor s: times")
    first = next(iter(results.values()))
    for name, values in results.items():
        table.add_row(
            name,
            median_and_range([one["tokens"] / one["wall"] for one in values]),
            median_and_range(_times(values, first, "wall"), ".3f"),
            median_and_range([one["processor"] for one in values], ".2f"),
            median_and_range(_times(values, first, "processor"), ".3f"),
        )
    console().print(table)
    write_json(output, {"steps": steps, "rounds": results})


def _times(values: list[Round], first: list[Round], clock: str) -> list[float]:
    """Tokens per second of a clock relative to the first variant, round by round."""
    rates = [[one["tokens"] / one[clock] for one in rounds] for rounds in (values, first)]
    return [here / there for here, there in zip(*rates, strict=True)]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        typer.run(main)
