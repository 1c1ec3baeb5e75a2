"""`distill export`: a student as a folder that can be deployed, with every file checked before it is kept."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.export.card import files_table, write_card
from pipeline.export.pruned import pruned
from pipeline.export.subject import Subject, checkpoint_of, open_subject
from pipeline.export.task_form import task_form
from pipeline.export.triton import write_triton
from pipeline.export.writer import ModelWriter
from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.reporting.result_table import as_terminal
from pipeline.reporting.run_table import percent
from pipeline.store.checkpoints import store_for_look
from pipeline.store.files import disk_errors, storage_errors
from schemas.core.errors import ConfigError
from schemas.results.export import EXPORT as EXPORT
from schemas.results.export import ExportedModel, ExportManifest, VocabularyCut
from stages.device.processor import processor
from stages.export.agreement import agreement
from stages.export.int8 import Mode
from stages.export.onnx_model import OPSET
from stages.saved_model import save_model
from stages.storage.sealed_folder import measure, publish, sync_tree, unfinished
from stages.versions import installed_versions, utc_now


@dataclass(frozen=True)
class Wanted:
    """The files to export."""

    onnx: bool = False
    int8: Mode | None = None
    fp16: bool = False
    prune_vocabulary: str | None = None
    """`task`, or the path of a text file whose words stay too; None to keep the vocabulary."""
    triton: bool = False
    opset: int = OPSET
    most_loss: float = 1.0
    """Points of the main score that 8-bit integers may cost."""

    @property
    def has_onnx(self) -> bool:
        """True if an ONNX file is needed."""
        return self.onnx or self.fp16 or self.triton or self.int8 is not None


def export(name: str, to: Path, wanted: Wanted, task: str | None = None, store: Path | None = None) -> ExportManifest:
    """Export a checkpoint, or the last student of a run.

    Args:
        name: a checkpoint's folder, or a run's name.
        to: a folder that does not exist yet.
        wanted: the files to write.
        task: a task as of `distill evaluate --task`; None for that of the checkpoint's training.
        store: the store that has the run, and a cache of tokenised data.

    Raises:
        ConfigError: the folder exists, or the checkpoint cannot be named like that.
        DistillError: a file answers differently from the checkpoint; nothing was written.
    """
    if to.exists():
        raise _exists(to)
    with store_for_look(read_settings(store).store) as opened:
        subject = open_subject(checkpoint_of(name, opened), task, opened.cache)
        cut = None
        if wanted.prune_vocabulary is not None:
            subject, cut = pruned(subject, wanted.prune_vocabulary, opened.cache)
        target = to.absolute()
        with ExitStack() as stack:
            with storage_errors(target.parent):
                folder = stack.enter_context(unfinished(target.parent))
            with disk_errors(target.parent):  # reads as well, so that other errors are not about this folder
                manifest = fill(subject, cut, folder, target.name, wanted)
            with storage_errors(target.parent):
                sync_tree(folder)
                is_there = publish(folder, target, lambda _: False)
        if not is_there:
            raise _exists(to)
    return manifest


def _exists(to: Path) -> ConfigError:
    return ConfigError(f"--to {to}: it exists already; give a new folder, or remove it")


def mode_of(text: str | None) -> Mode | None:
    """Return the mode of `--int8`; None where it is left out.

    Raises:
        ConfigError: there is no such mode.
    """
    if text is None or text in ("dynamic", "static"):
        return text  # type: ignore[return-value]
    raise ConfigError(f"--int8 {text}: give dynamic or static")


def print_export(exported: ExportManifest, to: Path, console: Console) -> None:
    """Print the files with their sizes, scores and differences, and what to do next."""
    console.print(as_terminal(files_table(exported)))
    for model in exported.models:
        if model.variant is not None:
            say(console, f"{model.file}: {model.variant}, which lost least of four ways on texts of training")
    if (cut := exported.pruned) is not None:
        answers = "" if cut.same_answers is None else f", {percent(cut.same_answers)} % have the same answer"
        say(
            console,
            f"vocabulary: {cut.kept:,} of {cut.of:,} pieces; of {cut.rows:,} texts that did not decide which, "
            f"{percent(cut.same_pieces)} % are cut as before{answers}",
        )
    say(console, f"{to}: {len(exported.files)} files; how to use them: {to / 'README.md'}")


def fill(subject: Subject, cut: VocabularyCut | None, folder: Path, name: str, wanted: Wanted) -> ExportManifest:
    """Write every file of an export; the manifest is written last.

    Args:
        subject: the student, with its vocabulary pruned or whole.
        cut: what the pruning changed; None for a whole vocabulary.
        folder: an empty folder.
        name: name of the folder in the programs of the card.
        wanted: the files to write.

    Raises:
        DistillError: a file cannot be made, or answers differently from the checkpoint.
    """
    save_model(subject.model, subject.tokenizer, folder, max_length=subject.max_length)
    models = _models(ModelWriter(subject, folder), wanted)
    if wanted.triton:
        write_triton(folder, models[-1], name)
    scorer = subject.scorer
    own = agreement(subject.expected, subject.expected, subject.scorer, subject.metric)
    manifest = ExportManifest(
        stage=subject.manifest.stage,
        digest=subject.manifest.digest,
        task=subject.task_name,
        metric=subject.metric,
        score=own.score,
        form=None if subject.task is None or scorer is None else task_form(subject.task, scorer.rows.task),
        labels=subject.manifest.labels,
        max_length=subject.max_length,
        vocabulary=len(subject.tokenizer),
        pruned=cut,
        checkpoint_size=(folder / "model.safetensors").stat().st_size,
        models=models,
        files={},
        processor=processor(),
        versions=installed_versions() | _onnx_versions(wanted),
        created=utc_now(),
    )
    write_card(subject, manifest, folder, name)
    manifest = manifest.model_copy(update={"files": measure(folder)})
    (folder / EXPORT).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _models(writer: ModelWriter, wanted: Wanted) -> tuple[ExportedModel, ...]:
    if not wanted.has_onnx:
        return ()
    models = [writer.fp32(wanted.opset)]
    if wanted.fp16:
        models.append(writer.fp16())
    if wanted.int8 is not None:
        models.append(writer.int8(wanted.int8, most_loss=wanted.most_loss))
    return tuple(models)


def _onnx_versions(wanted: Wanted) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxruntime")} if wanted.has_onnx else {}
