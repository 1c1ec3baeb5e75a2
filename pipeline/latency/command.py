"""`distill latency`: how long checkpoints and exports take for the same texts, beside any other model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from pipeline.export.manifest import is_export
from pipeline.export.subject import Subject, checkpoint_of, open_subject
from pipeline.latency.measure import Candidate, measure
from pipeline.latency.texts import load_of
from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_terminal
from pipeline.reporting.shipping_table import ratio
from pipeline.store.checkpoints import CheckpointStore, store_for_look
from schemas.core.errors import ConfigError
from schemas.core.refs import ModelRef, describe_model
from schemas.results.latency import LatencyReport
from stages.models.encoders import locate
from stages.storage.sealed_folder import MANIFEST

_MODEL: TypeAdapter[ModelRef] = TypeAdapter(ModelRef)


@dataclass(frozen=True)
class Shapes:
    """Shapes of the batches that every model answers."""

    batches: Sequence[int] = (1,)
    """Texts in a call."""
    lengths: Sequence[int | None] = (None,)
    """Tokens of each text; None for texts in their own length."""
    threads: Sequence[int] = (1,)
    """Threads of a model."""
    rounds: int = 5
    """Rounds in which all models take turns."""


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the whole numbers of an option, such as `1,16`.

    Raises:
        ConfigError: an entry is no number, or not positive.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} {text}: give whole numbers from 1, separated by commas, such as 1,16")
    return tuple(map(int, parts))


def measure_latency(
    names: Sequence[str], against: str | None, shapes: Shapes, store: Path | None = None
) -> LatencyReport:
    """Measure models on texts of a checkpoint's task.

    Args:
        names: checkpoints, runs (their last student), folders of `distill export`, or models as in a recipe.
        against: the reference, one of the same; None for the pretrained teacher of the first checkpoint.
        shapes: batches, lengths and threads.
        store: the store that has the runs, and a cache of tokenised data.

    Raises:
        ConfigError: a name is none of them, or no checkpoint is named whose task has texts.
        DistillError: a model cannot be run.
    """
    with store_for_look(read_settings(store).store) as opened:
        subject = _subject([*names, against], opened)
        reference = _teacher(subject) if against is None else _candidates(against, opened)[0]
        candidates = [reference, *(found for name in names for found in _candidates(name, opened))]
        loads = [
            load_of(subject.checked, subject.sequences, batch=batch, length=length)
            for batch in shapes.batches
            for length in shapes.lengths
        ]
        texts = f"validation texts of {subject.task_name or 'the corpus'}"
        return measure(candidates, loads, shapes.threads, rounds=shapes.rounds, texts=texts)


def _teacher(subject: Subject) -> Candidate:
    source = subject.manifest.config.pretrained
    return Candidate(f"teacher ({describe_model(source)})", locate(source))


def _candidates(name: str, store: CheckpointStore) -> list[Candidate]:
    """Return the models that a name stands for: one, or the files of an export."""
    folder = Path(name)
    if is_export(folder):
        files = sorted((folder / "onnx").glob("*.onnx"))
        return [
            Candidate(f"{folder.name}, torch", folder),
            *(Candidate(f"{folder.name}, {_kind(f)}", f) for f in files),
        ]
    if (folder / MANIFEST).is_file() or name in store.list_reports():
        checkpoint = checkpoint_of(name, store)
        return [Candidate(checkpoint.name, checkpoint / "model")]
    if (folder / "config.json").is_file():
        return [Candidate(folder.name, folder)]
    try:
        return [Candidate(name, locate(_MODEL.validate_python(name)))]
    except ValidationError:
        raise ConfigError(
            f"{name} is no checkpoint, no run of the store, no export, and no model as in a recipe (a hub id, a folder "
            "or package:NAME)"
        ) from None


def _kind(file: Path) -> str:
    return {"model": "onnx fp32", "model_fp16": "onnx fp16", "model_quantized": "onnx int8"}.get(file.stem, file.stem)


def _subject(names: Sequence[str | None], store: CheckpointStore) -> Subject:
    """Return the first checkpoint among the names; all models are measured on its texts."""
    for name in names:
        if name is not None and (name in store.list_reports() or (Path(name) / MANIFEST).is_file()):
            return open_subject(checkpoint_of(name, store), None, store.cache)
    raise ConfigError(
        "latency is measured on texts of a checkpoint's task: name a checkpoint or a run among the models"
    )


def latency_table(report: LatencyReport) -> ResultTable:
    """Return a row for each model, batch, length and number of threads."""
    sizes = {model.name: model for model in report.models}
    columns = (
        Column("model", is_text=True, wraps=True),
        Column("MB"),
        Column("batch"),
        Column("tokens"),
        Column("threads"),
        Column("ms"),
        Column("95 % within"),
        Column("processor ms"),
        Column("times faster"),
    )
    rows = [
        TableRow(
            (
                latency.name,
                f"{sizes[latency.name].size / 1e6:.1f}",
                f"{latency.batch}",
                "own" if latency.length is None else f"{latency.length}",
                f"{latency.threads}",
                f"{latency.wall_ms:.2f}",
                f"{latency.wall_ms_95:.2f}",
                f"{latency.processor_ms:.2f}",
                ratio(latency),
            )
        )
        for latency in report.latencies
    ]
    return ResultTable(columns, tuple(rows), f"a call, {report.texts}, {report.rounds} rounds")


def start_table(report: LatencyReport) -> ResultTable:
    """Return start-up and memory of each model in a process of its own."""
    columns = (Column("model", is_text=True, wraps=True), Column("start, s"), Column("peak memory, MB"))
    rows = [
        TableRow((model.name, f"{model.start_seconds:.1f}", f"{model.peak_bytes / 1e6:.0f}")) for model in report.models
    ]
    return ResultTable(columns, tuple(rows))


def print_latency(report: LatencyReport, console: Console) -> None:
    """Print the tables, the processor, and a warning on a busy machine."""
    console.print(as_terminal(latency_table(report)))
    console.print(as_terminal(start_table(report)))
    say(console, f"times faster: processor time of the first model over that of the row. {report.processor}")
    if report.is_busy:
        say(console, "other programs were running: wall times are too long, processor times and ratios hold better")
