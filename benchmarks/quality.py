"""Does distillation beat fine-tuning the same student? Methods at equal tokens and seeds, beside their control.

    python -m benchmarks.quality benchmarks/small_sst2.yaml benchmarks/small_mrpc.yaml --tokens 200k,800k \
        --seeds 0,1,2 --json quality.json

Every comparison runs the controls: the same start and the same tokens with hard labels alone, and with soft and hard
labels unless `--no-soft` spares the time. `--rows held_out` scores rows taken out of the training file, on which
settings are chosen; `--rows validation` scores the rows that are reported. `--factors` chooses each method's learning
rate on held-out rows, with a seed of its own. `--changes` compares changes to the four stages one by one, and `--keep`
applies changes to all of them.

All runs share one store: a teacher is fine-tuned once, a stage that two methods share is trained once. Results in the
JSON file are taken from there, so that an interrupted comparison continues. `--evidence` keeps the
tables for the pages.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter

from benchmarks.evidence.of_quality import Result, Rows, by_method, minus, tables_of
from benchmarks.evidence.records import Evidence, about_this_command, write
from benchmarks.methods import (
    CHANGES,
    CONTROL,
    CONTROLS,
    FOUR_STAGES,
    METHODS,
    NO_CHANGE,
    STARTS,
    Change,
    Method,
    four_stages,
    held_out_task,
    merged,
    variant,
)
from benchmarks.output import console, table_of, write_json
from pipeline.process.prefect_api import prepare_environment
from schemas.core.base import digest_of
from schemas.core.training import Duration
from schemas.data.tasks import FileTask
from schemas.results.manifest import RunReport
from stages.storage.format_versions import NUMERICS_VERSION

_TUNING_SEED = 1000
_COLUMNS = ("mean %", "seeds' range", "minus control", "minus four stages", "agrees %")


@dataclass(frozen=True)
class Candidate:
    """A method with a change, under the name that tables show."""

    name: str
    method: Method
    change: Change = NO_CHANGE


class Comparison:
    """Runs variants of one recipe, and keeps their results."""

    def __init__(self, recipe: Path, settings: list[str], store: Path, held_out: int, results: list[Result]) -> None:
        from pipeline.recipes.shipped import read_recipe

        parsed = read_recipe(str(recipe), settings)
        assert parsed.task is not None
        self.name, self.store, self.results = parsed.name, store, results
        self.title = parsed.description or parsed.name
        base = parsed.model_dump(mode="json")
        self.bases: dict[Rows, dict[str, Any]] = {"validation": base}
        if isinstance(parsed.task, FileTask):
            folder = store / "held-out" / parsed.name
            self.bases["held_out"] = base | {"task": held_out_task(parsed.task, folder, rows=held_out)}

    def run(self, candidate: Candidate, rows: Rows, budget: float, seed: int, factor: float = 1.0) -> Result:
        """Return the result of one run, from the earlier results if it is among them."""
        recipe = variant(
            self.bases[rows], candidate.method, tokens=budget, seed=seed, change=candidate.change, factor=factor
        )
        key = digest_of({"recipe": recipe, "numerics": NUMERICS_VERSION})
        for result in self.results:
            if result.key == key:
                return replace(result, method=candidate.name)
        measured = _measured(recipe, self.store)
        named = {"task": self.name, "rows": rows, "method": candidate.name, "budget": budget, "seed": seed}
        result = Result(key=key, **named, factor=factor, **measured)
        self.results.append(result)
        console().print(
            f"{self.name}, {rows}, {candidate.name}, {budget / 1e6:.2f} M tokens, seed {seed}, learning rate × "
            f"{factor:g}: {100 * result.score:.1f} %"
        )
        return result

    def best_factor(self, candidate: Candidate, budget: float, factors: list[float]) -> float:
        """Return the learning-rate factor with the best score on held-out rows."""
        if len(factors) == 1:
            return factors[0]
        tried = [self.run(candidate, "held_out", budget, _TUNING_SEED, factor) for factor in factors]
        return max(tried, key=lambda result: result.score).factor


def run_variant(recipe: dict[str, Any], store: Path) -> RunReport:
    """Run a recipe; its closing table shows the models in torch alone."""
    from pipeline.flow import RunOptions, distill_flow

    os.environ["DISTILL_EXPORTS"] = "0"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        report = distill_flow(recipe=str(file), options=RunOptions(store=str(store)))
    assert isinstance(report, RunReport)
    return report


def _measured(recipe: dict[str, Any], store: Path) -> dict[str, Any]:
    """Run one variant, and return the scores of its student."""
    report = run_variant(recipe, store)
    teacher = next(row for row in report.rows if row.kind == "teacher")
    students = [row for row in report.rows if row.kind == "stage"]
    metric, draws = _draws_of(students[-1].checkpoint.path, json.dumps(recipe), store)
    scores = [row.judgement.scores[metric].value for row in (students[-1], teacher)]
    return {
        "metric": metric,
        "score": scores[0],
        "draws": [round(value, 6) for value in draws],
        "teacher": scores[1],
        "guessing": report.guessed[metric],
        "scored": report.validation_rows,
        "agreement": students[-1].judgement.agreement,
        "tokens": sum(row.tokens or 0 for row in students),
        "seconds": sum(row.seconds or 0 for row in students),
    }


def _draws_of(checkpoint: str, recipe: str, store: Path) -> tuple[str, list[float]]:
    """Return the task's main metric, and a checkpoint's scores of resampled validation rows."""
    from stages.kinds.registry import kind_of

    metric, scorer = _scorer(recipe, store)
    model = kind_of(scorer.rows.task.problem).head.load(Path(checkpoint) / "model")
    return metric, scorer.draws(metric, scorer.answers_of(model)).tolist()


def _scorer(recipe: str, store: Path) -> tuple[Any, Any]:
    """Return the task's main metric, and the scorer of the rows that the report's scores are about."""
    from pipeline.store.checkpoints import open_store
    from schemas.recipe.recipe import Recipe
    from stages.data.tasks.load import load_task
    from stages.judge import task_scorers
    from stages.models.encoders import load_config, load_tokenizer, locate

    parsed = Recipe.model_validate_json(recipe)
    assert parsed.task is not None
    folder, cache = locate(parsed.pretrained), open_store(store).cache
    scorers = task_scorers(
        load_task(parsed.task, cache, droppable=parsed.limits.dropped),
        load_tokenizer(folder, load_config(folder)),
        max_length=parsed.task.max_length,
        cache=cache,
        max_rows=parsed.evaluation.max_rows,
    )
    return parsed.task.main_metric, scorers["validation"]


def amount(text: str) -> float:
    """Return a number of tokens, `3M`, `800k` or a plain number, parsed as in recipes."""
    duration: Duration = TypeAdapter(Duration).validate_python(f"{text} tokens")
    return duration.amount


def candidates(
    methods: list[str], changes: list[str], keep: list[str], starts_of: str | None, *, soft: bool = True
) -> list[Candidate]:
    """Return everything that is compared: the controls, methods, changes one by one, and starts."""
    kept = merged([CHANGES[name] for name in keep])
    names = dict.fromkeys([*(CONTROLS if soft else (CONTROL,)), FOUR_STAGES, *methods])
    methods_of = METHODS | {FOUR_STAGES: four_stages(kept)}
    chosen = [Candidate(name, methods_of[name], kept) for name in names]
    for name in changes:
        change = merged([kept, CHANGES[name]])
        chosen.append(Candidate(f"+ {name}", four_stages(change), change))
    if starts_of is not None:
        stages = METHODS[starts_of].stages
        chosen += [Candidate(f"{starts_of}, {name}", Method(stages, start), kept) for name, start in STARTS.items()]
    return chosen


def summarise(results: list[Result]) -> None:
    """Print a table per task and budget: mean over seeds, and the differences from control and from the four stages."""
    groups = by_method(results)
    for task, budget in dict.fromkeys((result.task, result.budget) for result in results):
        methods = {name: seeds for (of, tokens, name), seeds in groups.items() if (of, tokens) == (task, budget)}
        first = methods[CONTROL][0]
        title = (
            f"{task}, {budget / 1e6:.2f} M tokens: {first.metric} on {first.rows} rows, "
            f"seeds: {len(methods[CONTROL])}; teacher {100 * first.teacher:.1f} %"
        )
        table = table_of("method", *_COLUMNS, title=title)
        for name, seeds in methods.items():
            table.add_row(*_cells(name, seeds, methods[CONTROL], methods[FOUR_STAGES]))
        console().print(table)
    console().print("Brackets hold 95 % intervals over rows and seeds.")


def _cells(method: str, seeds: list[Result], control: list[Result], four: list[Result]) -> list[str]:
    scores = [100 * result.score for result in seeds]
    teachers = [100 * statistics.mean(result.teacher for result in group) for group in (seeds, control)]
    return [
        method if teachers[0] == teachers[1] else f"{method} ({teachers[0]:.1f} %)",
        f"{statistics.mean(scores):.1f}",
        f"{min(scores):.1f} to {max(scores):.1f}",
        _minus(seeds, control),
        _minus(seeds, four),
        f"{100 * statistics.mean(result.agreement for result in seeds):.1f}",
    ]


def _minus(seeds: list[Result], others: list[Result]) -> str:
    found = minus(seeds, others)
    return "–" if found is None else str(found)


def compare_starts(results: list[Result]) -> None:
    """Print, for each start, the fewest tokens whose mean reaches the random start's mean at the full budget."""
    means = {run: statistics.mean(result.score for result in seeds) for run, seeds in by_method(results).items()}
    random = {run: mean for run, mean in means.items() if run[2].endswith("random start")}
    for task in dict.fromkeys(run[0] for run in random):
        (_, budget, reference), goal = max(
            (item for item in random.items() if item[0][0] == task), key=lambda item: item[0][1]
        )
        prefix = reference.removesuffix("random start")
        for name in dict.fromkeys(method for of, _, method in means if of == task and method.startswith(prefix)):
            enough = [run[1] for run, mean in means.items() if (run[0], run[2]) == (task, name) and mean >= goal]
            outcome = "not reached"
            if enough:
                outcome = f"with {min(enough) / 1e6:.2f} M tokens, {100 * (1 - min(enough) / budget):.0f} % fewer"
            console().print(f"{task}, {name}: the random start's final {100 * goal:.1f} % {outcome}")


def read_results(output: Path | None) -> list[dict[str, Any]]:
    """Return the results of an earlier command; [] without its file."""
    if output is None or not output.is_file():
        return []
    results: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))["results"]
    return results


def _names(text: str, known: Any) -> list[str]:
    names = list(known) if text == "all" else [name.strip() for name in text.split(";") if name.strip()]
    if unknown := sorted(set(names) - set(known)):
        raise typer.BadParameter(f"{', '.join(unknown)}: choose {'; '.join(known)}")
    return names


def main(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes with all four stages and a task, one per task.")],
    tokens: Annotated[str, typer.Option(help="Tokens of all stages together, such as 200k,800k.")] = "200k,800k",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    methods: Annotated[str, typer.Option(help="Methods beside four stages and controls, by semicolons; `all`.")] = "",
    changes: Annotated[str, typer.Option(help="Changes to the four stages, compared one by one; `all`.")] = "",
    keep: Annotated[str, typer.Option(help="Changes that all runs have.")] = "",
    starts_of: Annotated[str | None, typer.Option(help="Compare starts of this method.")] = None,
    rows: Annotated[Rows, typer.Option(help="Rows that are scored.")] = "held_out",
    held_out: Annotated[int, typer.Option(help="Training rows to hold out.")] = 1000,
    factors: Annotated[str, typer.Option(help="Learning-rate factors to choose from on held-out rows.")] = "1",
    soft: Annotated[bool, typer.Option(help="Run the control with soft and hard labels too.")] = True,
    change: Annotated[list[str] | None, typer.Option("--set", help="Change the recipes.")] = None,
    store: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("distill-store"),
    output: Annotated[Path | None, typer.Option("--json", help="Read and write results here.")] = None,
    evidence: Annotated[str | None, typer.Option(help="Keep the tables in docs/evidence under this name.")] = None,
) -> None:
    """Compare methods, changes and starts with their control."""
    prepare_environment()
    kept = _names(keep, CHANGES)
    compared = candidates(_names(methods, METHODS), _names(changes, CHANGES), kept, starts_of, soft=soft)
    results = [Result(**entry) for entry in read_results(output)]
    reported: list[Result] = []
    titles: dict[str, str] = {}
    for recipe in recipes:
        comparison = Comparison(recipe, change or [], store, held_out, results)
        titles[comparison.name] = comparison.title
        for budget in [amount(text) for text in tokens.split(",")]:
            for candidate in compared:
                factor = comparison.best_factor(candidate, budget, [float(text) for text in factors.split(",")])
                for seed in [int(text) for text in seeds.split(",")]:
                    reported.append(comparison.run(candidate, rows, budget, seed, factor))
                    write_json(output, [asdict(result) for result in results])
    summarise(reported)
    compare_starts(reported)
    if evidence is not None:
        write(evidence, Evidence(**about_this_command(), tables=tables_of(reported, titles)))


if __name__ == "__main__":
    typer.run(main)
