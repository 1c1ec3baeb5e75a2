"""Compares methods at the same student, task, number of tokens and seeds, and prints a table with mean and range.

    python benchmarks/quality.py benchmarks/sst2.yaml --tokens 3M --seeds 0,1,2 --json quality.json

Every method is the given recipe with other stages, objectives or start; learning rates and batches of a stage are the
recipe's own for the stage of that name. All runs share one store: the teacher is fine-tuned once, a stage that two
methods have in common is trained once, and a comparison that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.launch import prepare_environment
from schemas.core.training import Duration

LATENT: dict[str, Any] = {"kind": "latent"}
RELATIONS: dict[str, Any] = {
    "kind": "latent",
    "layer_map": {"kind": "last"},
    "terms": [
        # 12 relation heads: 48, the source's number, does not divide a width of 312.
        {"kind": "relation", "between": between, "num_heads": 12}
        for between in ("query", "key", "value")
    ],
}
HARD: dict[str, Any] = {"kind": "task", "latent": None, "soft_label": None}
SOFT: dict[str, Any] = {"kind": "task", "latent": None, "hard_label": None}
SOFT_AND_HARD: dict[str, Any] = {"kind": "task", "latent": None}
ALL_THREE: dict[str, Any] = {"kind": "task"}


@dataclass(frozen=True)
class Method:
    """Stages with their share of the tokens and their objective, and what the student starts from."""

    stages: dict[str, tuple[float, dict[str, Any]]]
    start: dict[str, Any] = field(default_factory=lambda: {"kind": "random"})


FOUR: dict[str, tuple[float, dict[str, Any]]] = {
    "general": (0.40, LATENT),
    "general_enhanced": (0.10, LATENT),
    "task_adaptive": (0.25, LATENT),
    "task_specific": (0.25, ALL_THREE),
}


def without(stage: str) -> Method:
    """ERNIE-Tiny with one stage left out and its tokens given to the next one.

    Without `task_specific` the student still needs a classifier: hard labels alone take the place of distillation.
    """
    if stage == "task_specific":
        return Method(FOUR | {stage: (FOUR[stage][0], HARD)})
    names = list(FOUR)
    following = names[names.index(stage) + 1]
    return Method(
        {
            name: (share + FOUR[stage][0] if name == following else share, objective)
            for name, (share, objective) in FOUR.items()
            if name != stage
        }
    )


METHODS: dict[str, Method] = {
    "hard labels": Method({"task_specific": (1.0, HARD)}),
    "soft + hard labels": Method({"task_specific": (1.0, SOFT_AND_HARD)}),
    "TinyBERT": Method({"general": (0.40, LATENT), "task_adaptive": (0.35, LATENT), "task_specific": (0.25, SOFT)}),
    "ERNIE-Tiny": Method(FOUR),
    **{f"ERNIE-Tiny without {name}": without(name) for name in FOUR},
    "MiniLMv2, fine-tuned": Method({"general": (0.6, RELATIONS), "task_specific": (0.4, HARD)}),
}
STARTS: dict[str, dict[str, Any]] = {
    "random start": {"kind": "random"},
    "ETD-Rand": {"kind": "extract", "units": "random"},
    "ETD-Impt": {"kind": "extract", "units": "importance"},
}


def variant(base: dict[str, Any], method: Method, *, tokens: float, seed: int) -> dict[str, Any]:
    """The base recipe with a method's stages and start, for so many tokens and one seed."""
    own = {stage["name"]: stage["training"] for stage in base["stages"]}
    stages = [
        {
            "name": name,
            "objective": objective,
            "training": own[name] | {"duration": f"{round(tokens * share)} tokens", "seed": seed},
        }
        for name, (share, objective) in method.stages.items()
    ]
    start = method.start | {"seed": seed}
    student = base["student"] | {"start": start}
    return base | {"stages": stages, "student": student, "baselines": []}


def run(recipe: dict[str, Any], store: Path) -> dict[str, Any]:
    """Run one variant; its student's scores."""
    from pipeline.flow import RunOptions, distill_flow

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        report = distill_flow(recipe=str(file), options=RunOptions(store=str(store)))
    teacher = next(row for row in report.rows if row.kind == "teacher")
    student = [row for row in report.rows if row.kind == "stage"][-1]
    return {
        "accuracy": student.judgement.accuracy,
        "agreement": student.judgement.agreement,
        "teacher": teacher.judgement.accuracy,
        "tokens": sum(row.tokens or 0 for row in report.rows if row.kind == "stage"),
        "seconds": sum(row.seconds or 0 for row in report.rows if row.kind == "stage"),
    }


def amount(text: str) -> float:
    """`3M`, `800k` or a plain number, read as recipes read a duration."""
    duration: Duration = TypeAdapter(Duration).validate_python(f"{text} tokens")
    return duration.amount


def summarise(results: list[dict[str, Any]], console: Console) -> None:
    """One line per method and number of tokens: mean, lowest and highest of the seeds, agreement, time.

    A standard deviation of two or three seeds says less than the seeds themselves.
    """
    table = Table(title="accuracy on the validation rows", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("tokens", "seeds", "accuracy %", "lowest to highest", "agrees %", "minutes"):
        table.add_column(name, justify="right", no_wrap=True)
    for key in dict.fromkeys((result["method"], result["budget"]) for result in results):
        own = [result for result in results if (result["method"], result["budget"]) == key]
        accuracies = [100 * result["accuracy"] for result in own]
        table.add_row(
            key[0],
            f"{key[1] / 1e6:.2f} M",
            str(len(own)),
            f"{statistics.mean(accuracies):.1f}",
            f"{min(accuracies):.1f} to {max(accuracies):.1f}",
            f"{100 * statistics.mean(result['agreement'] for result in own):.1f}",
            f"{statistics.mean(result['seconds'] for result in own) / 60:.1f}",
        )
    console.print(table)
    if results:
        console.print(f"teacher: {100 * results[0]['teacher']:.1f} %")


def needed(results: list[dict[str, Any]], console: Console) -> None:
    """For each start, the fewest tokens tried whose mean reaches the random start's at the full number."""
    means: dict[tuple[str, float], float] = {}
    for key in dict.fromkeys((result["method"], result["budget"]) for result in results):
        own = [r["accuracy"] for r in results if (r["method"], r["budget"]) == key]
        means[key] = statistics.mean(own)
    random = {key: mean for key, mean in means.items() if key[0].endswith("random start")}
    if not random:
        return
    (reference, budget), goal = max(random.items(), key=lambda item: item[0][1])
    compared = reference.removesuffix("random start")
    for name in dict.fromkeys(method for method, _ in means if method.startswith(compared)):
        reached = [tokens for (method, tokens), mean in means.items() if method == name and mean >= goal]
        said = (
            f"with {min(reached) / 1e6:.2f} M tokens, {100 * (1 - min(reached) / budget):.0f} % fewer"
            if reached
            else "not reached"
        )
        console.print(f"{name}: the random start's final {100 * goal:.1f} % {said}")


def plan_of(methods: list[str], starts_of: str | None, tokens: float, fractions: list[float]):  # type: ignore[no-untyped-def]
    """(name, method, tokens) of everything that is to be run."""
    chosen = [(name, METHODS[name], tokens) for name in methods]
    if starts_of is not None:
        stages = METHODS[starts_of].stages
        chosen += [
            (f"{starts_of}, {name}", Method(stages, start), round(tokens * fraction))
            for name, start in STARTS.items()
            for fraction in fractions
        ]
    return chosen


def main(
    recipe: Annotated[Path, typer.Argument(help="A recipe with all four stages and a task.")],
    tokens: Annotated[str, typer.Option(help="Tokens of all stages together, such as 3M.")] = "3M",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    methods: Annotated[str, typer.Option(help="Names, separated by semicolons; `all` or ``.")] = "all",
    starts_of: Annotated[str | None, typer.Option(help="Compare starts of this method.")] = None,
    fractions: Annotated[str, typer.Option(help="Shares of the tokens for starts.")] = "0.3,0.5,1",
    change: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe.")] = None,
    store: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("distill-store"),
    output: Annotated[Path | None, typer.Option("--json", help="Write every result here.")] = None,
) -> None:
    """Compare methods on one task."""
    prepare_environment()
    from pipeline.recipes.shipped import read_recipe

    base = read_recipe(str(recipe), change or []).model_dump(mode="json")
    named = list(METHODS) if methods == "all" else [name for name in methods.split(";") if name]
    if unknown := sorted({*named, *([starts_of] if starts_of else [])} - set(METHODS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: choose {'; '.join(METHODS)}")
    shares = [float(share) for share in fractions.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 120)
    results: list[dict[str, Any]] = []
    for name, method, budget in plan_of(named, starts_of, amount(tokens), shares):
        for seed in (int(seed) for seed in seeds.split(",")):
            scores = run(variant(base, method, tokens=budget, seed=seed), store)
            results.append({"method": name, "budget": budget, "seed": seed} | scores)
            console.print(f"{name}, seed {seed}: {100 * scores['accuracy']:.1f} %")
            if output is not None:
                output.write_text(json.dumps(described(results), indent=1) + "\n", encoding="utf-8")
    summarise(results, console)
    needed(results, console)


def described(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with the command and the commit that made them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"command": shlex.join(sys.argv), "commit": commit, "results": results}


if __name__ == "__main__":
    typer.run(main)
