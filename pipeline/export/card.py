"""The model card of an export: what it is, how good and how large, and how to use it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import yaml

from pipeline.export.programs import Program, onnx_program, transformers_program
from pipeline.export.subject import Subject
from pipeline.reporting.result_table import Column, ResultTable, TableRow, as_markdown
from pipeline.reporting.run_table import percent, with_interval
from schemas.core.kinds import (
    Classification,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from schemas.core.metrics import titled
from schemas.core.refs import FolderModel, HubModel, PackageModel, describe_model
from schemas.data.tasks import HubTask
from schemas.results.export import ExportManifest
from schemas.results.score import Score
from stages.data.batching.tokens import Tokens
from stages.export.onnx_model import outputs_of

_PIPELINES: dict[type[TaskKind] | type[Any], str] = {
    Classification: "text-classification",
    MultiLabel: "text-classification",
    Regression: "text-classification",
    TokenClassification: "token-classification",
    QuestionAnswering: "question-answering",
    MultipleChoice: "multiple-choice",
}


def write_card(subject: Subject, export: ExportManifest, folder: Path, name: str) -> None:
    """Write README.md.

    Args:
        subject: the checkpoint.
        export: what was exported.
        folder: the export's folder.
        name: the export's name in programs.
    """
    from huggingface_hub import ModelCard

    front = yaml.safe_dump(_front_matter(subject, export, name), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {name}",
        _summary(subject, export),
        "## Files",
        as_markdown(files_table(export)),
        _remarks(export),
        "## Use",
        *_programs(subject, export, name),
        "## Origin",
        _origin(subject, export),
        "The recipe's stage, in full:",
        f"```yaml\n{_config(subject)}```",
    ]
    ModelCard(f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n").save(folder / "README.md")


def _config(subject: Subject) -> str:
    """Return the stage's settings as YAML, of paths only the names: a card is read elsewhere, and by others."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [public(entry) for entry in value]
        is_path = isinstance(value, str) and value.startswith(("/", "./", "../", "~"))
        return Path(value).name if is_path else value

    return yaml.safe_dump(public(subject.manifest.config.model_dump(mode="json")), sort_keys=False)


def files_table(export: ExportManifest) -> ResultTable:
    """Return the table of exported files: sizes, scores, and how they answer compared with the checkpoint."""
    score = titled(export.metric, export.score.of if export.score else None) if export.metric else "score"
    columns = (
        Column("file", is_text=True, wraps=True),
        Column("numbers", is_text=True),
        Column("MB"),
        Column(f"{score} %"),
        Column("same answers %"),
        Column("largest difference"),
    )
    rows = [TableRow(("model.safetensors", "fp32", _mb(export.checkpoint_size), _score(export.score, None), "", ""))]
    rows += [
        TableRow(
            (
                model.file,
                model.number_format,
                _mb(model.size),
                _score(model.score, model.minus_checkpoint),
                "" if model.same_answers is None else percent(model.same_answers),
                f"{model.largest_difference:.1g}",
            )
        )
        for model in export.models
    ]
    return ResultTable(columns, tuple(rows))


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _score(score: Score | None, minus: Score | None) -> str:
    if score is None:
        return ""
    if minus is None or minus.value == minus.low == minus.high == 0:
        return with_interval(score)
    bounds = f"{100 * minus.low:+.1f} to {100 * minus.high:+.1f}"
    return f"{percent(score.value)} ({100 * minus.value:+.1f}; {bounds})"


def _summary(subject: Subject, export: ExportManifest) -> str:
    config, task = subject.manifest.config, export.task
    student = config.student
    shape = "" if student is None else f" of {student.shape.num_layers} layers and width {student.shape.hidden_size}"
    about = f"answers the task {task}" if task else "gives hidden states, and has no head"
    lines = [
        f"A student{shape}, distilled from {_teacher(subject)} with distill-flow. It {about}.",
        f"It was trained on sequences of up to {export.max_length} tokens; its tokenizer cuts longer texts.",
    ]
    if export.labels:
        lines.append(f"Its outputs are, in this order: {', '.join(f'`{label}`' for label in export.labels)}.")
    return "\n".join(lines)


def _remarks(export: ExportManifest) -> str:
    lines = [
        "Brackets behind a score hold its 95 % interval, or the difference from the checkpoint with the interval over "
        "the same rows."
    ]
    if export.models:
        lines.append(f"Each file was checked on {export.models[0].rows:,} texts, on {export.processor}.")
    lines += [
        f"8-bit integers: {model.variant}; answers of the same file differ between processors."
        for model in export.models
        if model.variant is not None
    ]
    if (cut := export.pruned) is not None:
        lines.append(
            f"The vocabulary has {cut.kept:,} of {cut.of:,} pieces: those of the training texts. Of {cut.rows:,} other "
            f"texts {percent(cut.same_pieces)} % are cut as before."
        )
    return "\n".join(lines)


def _programs(subject: Subject, export: ExportManifest, name: str) -> list[str]:
    kind, is_pair = _kind(subject), _is_pair(subject.checked)
    programs: list[tuple[str, Program]] = [
        ("With torch", transformers_program(kind, name, is_pair=is_pair)),
    ]
    if export.models:
        smallest = min(export.models, key=lambda model: model.size)
        programs.append(
            (
                "With ONNX Runtime alone",
                onnx_program(
                    name,
                    smallest.file,
                    inputs=tuple(subject.checked.batch(subject.sequences[:1]).model_inputs()),
                    output=outputs_of(subject.model)[0],
                    is_pair=is_pair,
                    best=isinstance(kind, Classification | TokenClassification | QuestionAnswering),
                ),
            )
        )
    return [
        f"{title} (`pip install {program.needs}`):\n\n```python\n{program.code}\n```" for title, program in programs
    ]


def _is_pair(tokens: Tokens) -> bool:
    """Return whether sequences hold two texts, as their token types say."""
    return tokens.types is not None and bool(tokens.types[: 1 << 16].any())


def _kind(subject: Subject) -> TaskKind | None:
    return None if subject.scorer is None else subject.scorer.kind.config


def _origin(subject: Subject, export: ExportManifest) -> str:
    lines = [
        f"- teacher: {_teacher(subject)}, licence: {_licence(subject) or 'unknown'}",
        f"- data: {export.task or 'general corpus'}; its licence is that of its source",
        f"- stage: {export.stage}, digest `{export.digest}`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in export.versions.items())}",
    ]
    return "\n".join(lines)


def _teacher(subject: Subject) -> str:
    source = subject.manifest.config.pretrained
    return Path(source.path).name if isinstance(source, FolderModel) else describe_model(source)


def _licence(subject: Subject) -> str | None:
    """Return the licence that the teacher's package or card names; None if neither does."""
    from stages.models.encoders import locate

    source = subject.manifest.config.pretrained
    if isinstance(source, PackageModel):
        try:
            found = metadata(source.distribution).json
        except PackageNotFoundError:
            return None
        return str(found.get("license_expression") or found.get("license") or "") or None
    card = locate(source) / "README.md"
    if not card.is_file():
        return None
    match = re.search(r"^license:\s*(\S+)\s*$", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return match[1] if match else None


def _front_matter(subject: Subject, export: ExportManifest, name: str) -> dict[str, Any]:
    """Return the card's metadata as the hub reads it."""
    config, kind = subject.manifest.config, _kind(subject)
    licence = (_licence(subject) or "other").lower()
    front: dict[str, Any] = {
        "library_name": "transformers",
        "license": licence,
        "tags": ["distillation", "distill-flow", *(["onnx"] if export.models else [])],
    }
    if kind is not None and (task := _PIPELINES.get(type(kind), "sentence-similarity")):
        front["pipeline_tag"] = task
    if isinstance(config.pretrained, HubModel):
        front |= {"base_model": config.pretrained.id, "base_model_relation": "finetune"}
    if isinstance(subject.task, HubTask):
        front["datasets"] = [subject.task.id]
    if export.score is not None and export.metric is not None:
        front["metrics"] = [export.metric]
        result = {
            "task": {"type": front["pipeline_tag"]},
            "dataset": {"name": export.task, "type": subject.task.id if isinstance(subject.task, HubTask) else "own"},
            "metrics": [{"type": export.metric, "value": round(100 * export.score.value, 2)}],
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    return front
