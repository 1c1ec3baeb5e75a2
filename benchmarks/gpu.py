"""Benchmark of an accelerator in under ten minutes: speed of a step, then SST-2 with four stages beside their control.

    python -m benchmarks.gpu --data ../shared/data --json gpu.json

Nothing here needs Prefect or MLflow. Float32 is multiplied in TF32 by both sides. Batches have the yardstick's 32 rows,
and sixteen times as many. The training takes as many tokens as the remaining minutes allow, at most `--tokens`; the
control has the same start and the same tokens, and hard labels alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

# Read when torch is imported, by this process and those that are measured.
os.environ.setdefault("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")

import numpy as np
import torch
import typer
import yaml

from benchmarks.methods import CONTROL, FOUR_STAGES, METHODS, variant
from benchmarks.output import console, table_of, write_json
from benchmarks.paired import difference
from benchmarks.speed.subjects import Precision, Subject
from benchmarks.speed.workload import BATCH_ROWS, SHAPES, Shape, make_workload
from benchmarks.speed.yardstick import Ingredients
from benchmarks.throughput import measure, show, step_seconds
from pipeline.api import stage_of
from pipeline.recipes.shipped import read_recipe
from schemas.recipe.expand import finished_teacher
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import CheckpointRef, Judgement, StageResult
from stages.judge import judge_checkpoint, make_yardstick
from stages.ports.plain import plain_ports
from stages.run import run_stage

_PRECISIONS: list[Precision] = ["fp32", "bf16"]
_LARGER = 16
_ROUNDS = 3
_RECIPE = Path(__file__).with_name("sst2.yaml")
# Share of the remaining time that training may take; the rest is for reading, judging and surprises.
_TRAINING_SHARE = 0.7
_LEAST_TOKENS = 20_000
# Labels alone need no pass of a teacher and no latent losses.
_CONTROL_COST = 0.5


def speed(shape: Shape, rows: int) -> list[dict[str, Any]]:
    """Measure the yardstick and this project's loop at a number of rows in a batch, in TF32 and in bf16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workload = make_workload(shape, device, rows_per_batch=rows)
    subjects = [
        Subject("yardstick, TF32", workload, "latent", "yardstick", "fp32"),
        Subject("yardstick, bf16", workload, "latent", "yardstick", "bf16", Ingredients(bf16=True)),
        Subject("ours, TF32", workload, "latent", "ours", "fp32"),
        Subject("ours, bf16", workload, "latent", "ours", "bf16"),
    ]
    measured = measure(subjects, _PRECISIONS, _ROUNDS, memory=True)
    title = f"{shape}, latent, {workload.batch.amount:,.0f} tokens a step"
    show(title, measured)
    return [{"shape": shape, "rows": rows, "table": title} | line for line in measured]


@dataclass
class Training:
    """The recipe's teacher, and students that are trained from it."""

    recipe: Recipe
    folder: Path
    teacher: StageResult

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Training:
        """Fine-tune the teacher."""
        return cls(recipe, folder, run_stage(stage_of(recipe, "teacher"), None, plain_ports(folder)))

    def student(self, method: str, tokens: float) -> StageResult:
        """Train a student by a method of `benchmarks.methods`; return its last stage."""
        content = self.recipe.model_dump(mode="json", exclude_unset=True)
        recipe = Recipe.model_validate(variant(content, METHODS[method], tokens=tokens, seed=0))
        result, parent = None, None
        for stage in recipe.stages:
            teachers = [] if stage.teacher == "pretrained" else [self.teacher.checkpoint]
            result = run_stage(stage_of(recipe, stage.name, *teachers), parent, plain_ports(self.folder))
            parent = result.checkpoint
            console().print(f"{method}, {stage.name}: {result.tokens:,} tokens, {result.seconds:.0f} s")
        assert result is not None
        return result

    def judged(self, *checkpoints: CheckpointRef) -> list[Judgement]:
        """Return the scores of the teacher, and of checkpoints with a head."""
        teacher = self.teacher.checkpoint
        fine_tuned = finished_teacher(str(Path(teacher.path) / "model"), teacher.digest)
        yardstick = make_yardstick(self.recipe, fine_tuned, self.folder / "cache")
        labels = yardstick.scorer.rows.task.labels if yardstick.scorer else ()
        return [judge_checkpoint(each, labels, yardstick) for each in (teacher, *checkpoints)]


def rate_of(lines: list[dict[str, Any]], batch: float) -> float:
    """Return tokens per second of the small shape in bf16 at a batch size between the two that were measured.

    Args:
        lines: what `speed` returned.
        batch: real tokens of a step.
    """
    of_small = [line for line in lines if line["shape"] == "small" and line["variant"] == "ours, bf16"]
    seconds = [step_seconds(line) for line in of_small]
    sizes = [line["rate"] * each for line, each in zip(of_small, seconds, strict=True)]
    return float(batch / np.interp(batch, sizes, seconds))


def tokens_of(minutes: float, rate: float, most: float) -> float:
    """Return the tokens of a student's stages: as many as two students can have in the time, at most `most`.

    Args:
        minutes: time that is left.
        rate: tokens per second of the four stages.
        most: most tokens.
    """
    return min(most, 60 * minutes * _TRAINING_SHARE * rate / (1 + _CONTROL_COST))


def train(recipe: Recipe, folder: Path, *, rate: float, until: float, most: float) -> dict[str, Any] | None:
    """Train SST-2 with four stages and with labels alone; return scores and tokens, or None if no time is left.

    Args:
        recipe: the recipe.
        folder: receives checkpoints and data.
        rate: tokens per second, to choose the number of tokens.
        until: `time.monotonic()` at the end.
        most: most tokens of a student.
    """
    training = Training.of(recipe, folder)
    console().print(f"teacher: {training.teacher.tokens:,} tokens, {training.teacher.seconds:.0f} s")
    tokens = tokens_of((until - time.monotonic()) / 60, rate, most)
    if tokens < _LEAST_TOKENS:
        console().print("no time is left for students: give more --minutes")
        return None
    students = {name: training.student(name, tokens) for name in (FOUR_STAGES, CONTROL)}
    judged = training.judged(*(student.checkpoint for student in students.values()))
    return compared(dict(zip(("teacher", *students), judged, strict=True)), training.teacher.tokens, tokens)


def compared(judgements: dict[str, Judgement], teacher_tokens: int, tokens: float) -> dict[str, Any]:
    """Print the scores and the differences from the four stages; return them.

    Args:
        judgements: those of the teacher and of the students, by name.
        teacher_tokens: tokens of the teacher's fine-tuning.
        tokens: tokens of a student.
    """
    table = table_of("", "accuracy %", "agrees %", "tokens", title="SST-2")
    for name, judgement in judgements.items():
        amount = f"{teacher_tokens if name == 'teacher' else tokens:,.0f}"
        table.add_row(name, _percent(judgement.accuracy), _percent(judgement.agreement), amount)
    console().print(table)
    found = {name: difference(*_draws(judgements[FOUR_STAGES]), *_draws(judgements[name])) for name in judgements}
    for name in ("teacher", CONTROL):
        console().print(f"{FOUR_STAGES} minus {name}: {found[name]} points")
    return {
        "tokens": tokens,
        "judgements": {name: judgement.model_dump(mode="json") for name, judgement in judgements.items()},
        "minus": {name: vars(found[name]) for name in ("teacher", CONTROL)},
    }


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _draws(judgement: Judgement) -> tuple[list[float], list[list[float]]]:
    """Return the score and the scores of resampled rows in percent, of one seed."""
    assert judgement.task_metric is not None
    assert judgement.draws is not None
    return [100 * judgement.task_metric], [[100 * value for value in judgement.draws.task]]


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data that benchmarks/sst2.yaml reads.")] = Path(
        "../shared/data"
    ),
    minutes: Annotated[float, typer.Option(help="Time for everything.", min=1)] = 9.0,
    tokens: Annotated[float, typer.Option(help="Most tokens of a student.")] = 30e6,
    cpu: Annotated[bool, typer.Option("--cpu", help="Try the command without an accelerator.")] = False,
    change: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Measure an accelerator: speed of a step, then a training beside its control."""
    until = time.monotonic() + 60 * minutes
    if not torch.cuda.is_available() and not cpu:
        raise typer.BadParameter("torch sees no accelerator here; --cpu tries the command without one")
    recipe = read_recipe(str(_RECIPE), [*_paths(data), *(change or [])])
    results: dict[str, Any] = {"speed": []}
    for shape in SHAPES:
        for rows in (BATCH_ROWS, _LARGER * BATCH_ROWS):
            results["speed"] += speed(shape, rows)
            write_json(output, results)
    rate = rate_of(results["speed"], float(recipe.stages[-1].training.batch.amount))
    with tempfile.TemporaryDirectory() as folder:
        results["training"] = train(recipe, Path(folder), rate=rate, until=until, most=tokens)
    write_json(output, results)


def _paths(data: Path) -> list[str]:
    """Return the changes that lead the recipe's files to a folder."""
    content = yaml.safe_load(_RECIPE.read_text(encoding="utf-8"))
    (source,) = content["general_corpus"]["sources"]

    def moved(path: str) -> str:
        return str(data / Path(path).relative_to("../shared/data"))

    paths = ", ".join(map(moved, source["paths"]))
    return [
        *(f"task.{split}={moved(content['task'][split])}" for split in ("train", "validation")),
        f"general_corpus.sources.0.paths=[{paths}]",
    ]


if __name__ == "__main__":
    typer.run(main)
