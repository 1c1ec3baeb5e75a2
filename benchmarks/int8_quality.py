"""Do 8-bit integers keep more answers of a student that was trained for them?

    python -m benchmarks.int8_quality benchmarks/small_sst2.yaml --tokens 200k --factor 2 --seeds 0,1,2 --json int8.json

For each seed the four stages are run once; task_specific once more with `simulated_precision: int8`. Both students are
exported to ONNX in float32 and in 8-bit integers (`distill export --onnx --int8 dynamic`), and answer the same
validation rows. A flipped answer is one that the 8-bit file gives otherwise than the same student in torch. Flipped
answers are few, so they are also counted on texts of the training file that the recipe leaves unread.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.methods import CHANGES, four_stages, merged, variant
from benchmarks.output import console, table_of, write_json
from benchmarks.quality import amount, read_results, run_variant
from pipeline.export.manifest import read_manifest
from pipeline.export.subject import Subject, open_subject
from pipeline.export.writer import INT8
from pipeline.process.prefect_api import prepare_environment
from schemas.core.base import digest_of
from stages.data.batching.tokens import Tokens
from stages.export.onnx_model import OnnxModel, onnx_logits
from stages.storage.format_versions import EXPORT_VERSION, NUMERICS_VERSION

AFTER, TRAINED = "quantised afterwards", "trained for 8 bits"
_SIMULATED = "int8 simulated in task_specific"
_MOST_UNREAD = 5000


@dataclass(frozen=True)
class Int8Result:
    """One student before and after it is quantised."""

    key: str
    """Digest of the recipe that was run."""
    task: str
    way: str
    seed: int
    metric: str
    rows: int
    score: float
    """Of the student in torch."""
    int8_score: float
    minus: tuple[float, float, float]
    """Score in 8 bits minus that in torch, with the interval over the same rows."""
    flipped: int
    """Answers that differ between the two."""
    mean_difference: float
    """Of the logits."""
    variant: str
    unread: int
    """Texts of the training file that nothing was trained on; 0 where the recipe reads all of them."""
    unread_flipped: int


def measured(recipe: dict[str, Any], store: Path) -> dict[str, Any]:
    """Run a recipe and export its student; return what the files answered."""
    from pipeline.shipping.forms import export_of
    from pipeline.store.checkpoints import open_store

    report = run_variant(recipe, store)
    checkpoint = [row.checkpoint for row in report.rows if row.kind == "stage"][-1]
    cache = open_store(store).cache
    subject = open_subject(Path(checkpoint.path), None, cache)
    folder = export_of(subject, cache, console().print)
    assert folder is not None, "the extra `onnx` is needed"
    tokens, rows = _unread(subject, cache)
    flipped = 0
    if len(rows):
        answers = (subject.outputs(tokens, rows), onnx_logits(OnnxModel(folder / INT8), tokens, rows))
        flipped = int(np.not_equal(*(np.stack(logits).argmax(-1) for logits in answers)).sum())
    manifest = read_manifest(folder)
    (int8,) = [model for model in manifest.models if model.number_format == "int8"]
    minus = int8.minus_checkpoint
    return {
        "metric": manifest.metric,
        "rows": int8.rows,
        "score": manifest.score.value,
        "int8_score": int8.score.value,
        "minus": (minus.value, minus.low, minus.high),
        "flipped": round(int8.rows * (1 - int8.same_answers)),
        "mean_difference": int8.mean_difference,
        "variant": int8.variant,
        "unread": len(rows),
        "unread_flipped": flipped,
    }


def _unread(subject: Subject, cache: Path) -> tuple[Tokens, NDArray[np.int64]]:
    """Return the task's training texts, and the numbers of `_MOST_UNREAD` that nothing was trained on."""
    from stages.data.tasks.load import load_task
    from stages.data.tasks.tokenize import tokenize_split

    task = subject.task
    whole = load_task(task.model_copy(update={"max_train_rows": None}), cache, droppable=1)
    read = set(load_task(task, cache, droppable=1).train["text"])
    unread = [index for index, text in enumerate(whole.train["text"]) if text not in read]
    tokens = tokenize_split(whole, "train", subject.tokenizer, max_length=subject.max_length, cache=cache)
    return tokens, np.array(unread[:_MOST_UNREAD], np.int64)


def summarise(results: list[Int8Result]) -> None:
    """Print a row for each seed and way, and the share of flipped answers that training for 8 bits keeps."""
    columns = ("seed", "torch %", "int8 %", "difference", "flipped", "of", "of logits, mean")
    for task in dict.fromkeys(result.task for result in results):
        chosen = [result for result in results if result.task == task]
        table = table_of("", *columns, title=f"{task}: {chosen[0].metric} on validation rows")
        for result in sorted(chosen, key=lambda result: (result.way, result.seed)):
            value, low, high = (100 * number for number in result.minus)
            table.add_row(
                result.way,
                str(result.seed),
                f"{100 * result.score:.1f}",
                f"{100 * result.int8_score:.1f}",
                f"{value:+.1f} ({low:+.1f} to {high:+.1f})",
                str(result.flipped),
                f"{result.rows:,}",
                f"{result.mean_difference:.4f}",
            )
        console().print(table)
        for texts in ("", "unread_") if chosen[0].unread else ("",):
            flips = {
                way: [getattr(result, f"{texts}flipped") for result in chosen if result.way == way]
                for way in (AFTER, TRAINED)
            }
            before, now = (statistics.mean(flips[way]) for way in (AFTER, TRAINED))
            kept = f"{100 * (1 - now / before):.0f} %" if before else "none were flipped"
            where = f" of {chosen[0].unread:,} unread texts" if texts else ""
            console().print(
                f"{task}: {before:.1f} flipped answers a seed{where}, trained for 8 bits {now:.1f}: kept {kept}"
            )


def main(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes with all four stages and a task, one per task.")],
    tokens: Annotated[str, typer.Option(help="Tokens of all stages together.")] = "200k",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    factor: Annotated[float, typer.Option(help="Multiplies the learning rates.")] = 1.0,
    keep: Annotated[str, typer.Option(help="Changes of benchmarks.quality that all runs have.")] = "",
    store: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("distill-store"),
    output: Annotated[Path | None, typer.Option("--json", help="Read and write results here.")] = None,
) -> None:
    """Compare quantising afterwards with training for 8-bit integers."""
    from pipeline.recipes.shipped import read_recipe

    prepare_environment()
    kept = [CHANGES[name.strip()] for name in keep.split(";") if name.strip()]
    ways = {AFTER: merged(kept), TRAINED: merged([*kept, CHANGES[_SIMULATED]])}
    results = [Int8Result(**entry) for entry in read_results(output)]
    reported: list[Int8Result] = []
    for recipe in recipes:
        parsed = read_recipe(str(recipe), [])
        for seed in [int(text) for text in seeds.split(",")]:
            for way, change in ways.items():
                run = variant(
                    parsed.model_dump(mode="json"),
                    four_stages(change),
                    tokens=amount(tokens),
                    seed=seed,
                    change=change,
                    factor=factor,
                )
                versions = {"numerics": NUMERICS_VERSION, "export": EXPORT_VERSION, "unread": _MOST_UNREAD}
                key = digest_of({"recipe": run, **versions})
                result = next((found for found in results if found.key == key), None)
                if result is None:
                    result = Int8Result(key=key, task=parsed.name, way=way, seed=seed, **measured(run, store))
                    results.append(result)
                reported.append(result)
                write_json(output, [asdict(result) for result in results])
    summarise(reported)


if __name__ == "__main__":
    typer.run(main)
