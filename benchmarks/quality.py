"""Comparison of methods with equal students, tasks, tokens and seeds: a table with mean and range.

    python -m benchmarks.quality benchmarks/sst2.yaml --tokens 3M --seeds 0,1,2 --json quality.json

Every method is the given recipe with other stages, objectives or start. A stage keeps the learning rate and batch of
the recipe's stage of the same name. All runs share one store: the teacher is fine-tuned once, a stage that two methods
share is trained once, and an interrupted comparison resumes.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter

from benchmarks.output import console, table_of, write_json
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
    """Stages, each with its share of the tokens and its objective, and the start of the student."""

    stages: dict[str, tuple[float, dict[str, Any]]]
    start: dict[str, Any] = field(default_factory=lambda: {"kind": "random"})


FOUR: dict[str, tuple[float, dict[str, Any]]] = {
    "general": (0.40, LATENT),
    "general_enhanced": (0.10, LATENT),
    "task_adaptive": (0.25, LATENT),
    "task_specific": (0.25, ALL_THREE),
}


def without(stage: str) -> Method:
    """Return ERNIE-Tiny without one stage, whose tokens go to the next one.

    Without `task_specific` the student still needs a classifier, so hard labels alone replace distillation.
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
    """Return the base recipe with a method's stages and start, for a number of tokens and a seed."""
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
    """Run one variant, and return the scores of its student."""
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
    """Return a number of tokens, `3M`, `800k` or a plain number, parsed as in recipes."""
    duration: Duration = TypeAdapter(Duration).validate_python(f"{text} tokens")
    return duration.amount


def by_run(results: list[dict[str, Any]]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """Return the results of all seeds by method and number of tokens."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["method"], result["budget"]), []).append(result)
    return groups


def summarise(results: list[dict[str, Any]]) -> None:
    """Print the mean and range of the seeds, agreement and time of every method and number of tokens.

    The range says more than a standard deviation of two or three seeds.
    """
    columns = ("tokens", "seeds", "accuracy %", "lowest to highest", "agrees %", "minutes")
    table = table_of("method", *columns, title="accuracy on the validation rows")
    for (method, tokens), seeds in by_run(results).items():
        accuracies = [100 * result["accuracy"] for result in seeds]
        table.add_row(
            method,
            f"{tokens / 1e6:.2f} M",
            str(len(seeds)),
            f"{statistics.mean(accuracies):.1f}",
            f"{min(accuracies):.1f} to {max(accuracies):.1f}",
            f"{100 * statistics.mean(result['agreement'] for result in seeds):.1f}",
            f"{statistics.mean(result['seconds'] for result in seeds) / 60:.1f}",
        )
    console().print(table)
    console().print(f"teacher: {100 * results[0]['teacher']:.1f} %")


def compare_starts(results: list[dict[str, Any]]) -> None:
    """Print, for each start, the fewest tokens whose mean reaches the random start's mean at the full budget."""
    means = {run: statistics.mean(result["accuracy"] for result in seeds) for run, seeds in by_run(results).items()}
    random = {run: mean for run, mean in means.items() if run[0].endswith("random start")}
    if not random:
        return
    (reference, budget), goal = max(random.items(), key=lambda item: item[0][1])
    prefix = reference.removesuffix("random start")
    for name in dict.fromkeys(method for method, _ in means if method.startswith(prefix)):
        enough = [tokens for (method, tokens), mean in means.items() if method == name and mean >= goal]
        outcome = "not reached"
        if enough:
            outcome = f"with {min(enough) / 1e6:.2f} M tokens, {100 * (1 - min(enough) / budget):.0f} % fewer"
        console().print(f"{name}: the random start's final {100 * goal:.1f} % {outcome}")


def plan_of(methods: list[str], starts_of: str | None, tokens: float, fractions: list[float]):  # type: ignore[no-untyped-def]
    """Return (name, method, tokens) of every run."""
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
    results: list[dict[str, Any]] = []
    for name, method, budget in plan_of(named, starts_of, amount(tokens), shares):
        for seed in (int(seed) for seed in seeds.split(",")):
            scores = run(variant(base, method, tokens=budget, seed=seed), store)
            results.append({"method": name, "budget": budget, "seed": seed} | scores)
            console().print(f"{name}, seed {seed}: {100 * scores['accuracy']:.1f} %")
            write_json(output, results)
    summarise(results)
    compare_starts(results)


if __name__ == "__main__":
    typer.run(main)
