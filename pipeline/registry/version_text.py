"""Tags and description of a version, as MLflow shows them."""

from __future__ import annotations

from pipeline.registry.champion import KeptAnswers
from pipeline.reporting.run_table import percent, with_interval
from schemas.core.metrics import titled
from schemas.results.export import ExportedModel, ExportManifest


def version_tags(export: ExportManifest, model: ExportedModel, kept: KeptAnswers | None) -> dict[str, str]:
    """Return the tags of a version.

    Args:
        export: the export.
        model: the file that is served.
        kept: its answers and their score; None where it could not be scored.
    """
    tags = {
        "distill.stage": export.stage,
        "distill.digest": export.digest,
        "distill.numbers": model.number_format,
    }
    if export.task is not None:
        tags["distill.task"] = export.task
    if kept is not None:
        score = kept.score
        tags |= {
            "distill.metric": kept.metric,
            "distill.score": f"{score.value:.4f} ({score.low:.4f} to {score.high:.4f})",
            "distill.rows": kept.rows,
        }
    return tags


def about_model(export: ExportManifest) -> str:
    """Return the description of a registered model."""
    return (
        f"Students of the task `{export.task}`, distilled with distill-flow.\n\n"
        "`champion` moves to a new version only if its score is higher by a paired 95 % interval, on the same rows."
    )


def about_version(export: ExportManifest, model: ExportedModel, kept: KeptAnswers | None) -> str:
    """Return the description of a version, as of `version_tags`."""
    facts = {"file": f"`{model.file}`, {model.number_format}, {model.size / 1e6:.1f} MB"}
    if kept is not None:
        score = f"{with_interval(kept.score)} %, of {len(kept.answers):,} rows"
        facts[titled(kept.metric, kept.score.of)] = score
    if model.same_answers is not None:
        facts["same answers as in torch"] = f"{percent(model.same_answers)} %"
    if export.labels:
        facts["labels"] = ", ".join(f"`{label}`" for label in export.labels)
    facts |= {
        "longest text": f"{export.max_length} tokens; longer ones are cut",
        "checkpoint": f"{export.stage} `{export.digest[:16]}`",
        "checked on": export.processor,
    }
    rows = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in facts.items())
    is_pair = export.form is not None and export.form.has_pair
    columns = "`text` and `text_pair`" if is_pair else "`text`, or a list of texts"
    return (
        f"A student of the task `{export.task}`, served by ONNX Runtime and tokenizers, without torch.\n\n"
        f"| | |\n|---|---|\n{rows}\n\nInput: {columns}."
    )
