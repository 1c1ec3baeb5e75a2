"""The light model: an exported student as MLflow serves it, by ONNX Runtime and tokenizers, without torch.

It is a folder in MLflow's format "models from code": `served_student.py`, which MLflow runs, and beside it the export's
tokenizer and smallest ONNX file. Nothing in it is pickled. Its requirements are five packages, none of which needs
torch.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from pipeline.export.manifest import read_manifest
from pipeline.store.files import disk_errors
from pipeline.tracking.client import load_mlflow
from pipeline.tracking.logged_models import MLMODEL, model_request
from pipeline.tracking.mlflow_form import pinned, quiet
from pipeline.tracking.run_files import Point, Request
from pipeline.tracking.server import Server
from pipeline.tracking.session import TrackedRun, Tracking
from schemas.core.errors import CheckpointError, ConfigError
from schemas.core.kinds import MultiLabel
from schemas.results.export import EXPORT, ExportedModel, ExportManifest, TaskForm
from stages.storage.sealed_folder import differences, unfinished

LIGHT = "light"
"""Name of the artifact."""
LIGHT_TAG = "distill.light"
"""SHA-256 of the ONNX file: set on a run once its light model is there, so that later runs do not copy it."""
TOKENIZER = "tokenizer.json"
SERVED_KINDS = ("classification", "multi_label", "regression", "token_classification", "embedding")
_CODE = Path(__file__).with_name("served_student.py")
_REQUIRED = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")
_EXAMPLE = {"text": "A short text.", "text_pair": "Another one."}


def read_export(folder: Path) -> tuple[ExportManifest, ExportedModel]:
    """Return an export, every file verified, and the smallest of its ONNX files.

    Raises:
        ConfigError: no export, one without an ONNX file, or of a kind of task that is not served.
        CheckpointError: a file is damaged or missing.
    """
    try:
        export = read_manifest(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no folder of distill export: {EXPORT} cannot be read there") from error
    _form(export, folder)
    if not export.models:
        raise ConfigError(f"{folder} has no ONNX file; export it with: distill export … --onnx --int8 dynamic")
    model = min(export.models, key=lambda model: model.size)
    problems = [f"{name} is not listed in {EXPORT}" for name in (TOKENIZER, model.file) if name not in export.files]
    if problems := problems or differences(folder, export.files, content=True):
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}; export it again")
    return export, model


def _form(export: ExportManifest, folder: Path) -> TaskForm:
    """Return the form of an export's task; raises ConfigError for one that is not served."""
    form = export.form
    if form is None and export.task is not None:
        raise ConfigError(f"{folder} was written by an older version, which did not record the task; export it again")
    if form is None:
        raise ConfigError(
            f"{folder}: {export.stage} has no head, so that nothing can be served; export a task_specific one"
        )
    refuse_kind(form.problem.kind, str(folder))
    return form


def refuse_kind(kind: str, name: str) -> None:
    """Raise ConfigError for a kind of task that is not served; `name` names the student in the message."""
    if kind not in SERVED_KINDS:
        raise ConfigError(
            f"{name}: a {kind} student cannot be served as a model of texts; served are {', '.join(SERVED_KINDS)}: "
            "export it, and use its ONNX file as its README.md shows"
        )


def _columns(form: TaskForm) -> tuple[str, ...]:
    """Return the columns of the input."""
    return ("text", "text_pair") if form.has_pair else ("text",)


def save_light_model(folder: Path, to: Path, example: Mapping[str, str] | None = None) -> None:
    """Write an export as a light model.

    Args:
        folder: of `distill export`, with an ONNX file.
        to: folder to create; it must not exist or be empty.
        example: a real input, `text` and for pairs `text_pair`, to store beside it; None for an invented one.

    Raises:
        ConfigError: it is no export, cannot be served, or the packages for it are not installed.
        CheckpointError: a file of the export is damaged.
    """
    export, model = read_export(folder)
    form = _form(export, folder)
    if find_spec("onnxruntime") is None:
        raise ConfigError(
            "a light model is tried out before it is kept, which needs the packages of the extra `onnx`: pip install "
            "'distill-flow[onnx]'"
        )
    load_mlflow()
    texts = {name: (example or _EXAMPLE)[name] for name in _columns(form)}
    to.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(to.parent) as scratch:
        student = scratch / "student"
        student.mkdir()
        for name in (TOKENIZER, model.file, EXPORT):
            shutil.copyfile(folder / name, student / Path(name).name)
        (student / "serving.json").write_text(json.dumps(_settings(export, form, model), indent=1), encoding="utf-8")
        with quiet():
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                path=str(to),
                python_model=str(_CODE),
                artifacts={"student": str(student)},
                signature=_signature(form),
                input_example=_as_input(texts),
                pip_requirements=pinned(_REQUIRED),
            )
    _forget_paths(to / MLMODEL)


def log_light_model(folder: Path, run: TrackedRun, example: Mapping[str, str] | None = None) -> bool:
    """Log an export as a light model of a run, with its size, score and agreement as the model's scores.

    Args:
        folder: of `distill export`, with an ONNX file.
        run: the run that it is shown in.
        example: a real input, `text` and for pairs `text_pair`; None for an invented one.

    Returns:
        True if MLflow has it; False if it is kept until MLflow can be reached, or MLflow refused it.

    Raises:
        ConfigError: it is no export, cannot be served, or the packages for it are not installed.
        CheckpointError: a file of the export is damaged.
        StoreError: the store's file system refused.
    """
    store = run.points.parent
    export, model = read_export(folder)
    with disk_errors(store), unfinished(store) as scratch:
        save_light_model(folder, scratch / LIGHT, example)
        is_sent = run.log_model(light_request(export, model), scratch / LIGHT)
    if is_sent or run.is_waiting:  # otherwise MLflow refused it
        run.set_tags({LIGHT_TAG: export.files[model.file].sha256})
    return is_sent


def has_light_model(folder: Path, tracking: Tracking) -> bool:
    """Return whether a run in MLflow has the light model of an export; False while MLflow cannot be asked.

    Raises:
        ConfigError: the folder is no export.
        CheckpointError: a file of the export is damaged.
    """
    export, model = read_export(folder)
    digest, experiment = export.files[model.file].sha256, tracking.experiment_id

    def search(server: Server) -> bool:
        with warnings.catch_warnings(action="ignore"):  # MLflow and SQLAlchemy disagree about deprecations
            return bool(server.client.search_runs([experiment], f"tags.`{LIGHT_TAG}` = '{digest}'", max_results=1))

    return experiment is not None and bool(tracking.worker.ask("the light model", search))


def light_request(export: ExportManifest, model: ExportedModel) -> Request:
    """Return the request that logs the light model of an export's file; its scores have the time of the export."""
    scores = {"served/megabytes": model.size / 1e6, "served/largest_difference": model.largest_difference}
    if model.same_answers is not None:
        scores["served/same_answers"] = model.same_answers
    if model.score is not None and export.metric is not None:
        name = f"served/{export.metric}"
        scores |= {name: model.score.value, f"{name}_low": model.score.low, f"{name}_high": model.score.high}
    params = {"numbers": model.number_format, "variant": model.variant or "", "max_length": export.max_length}
    return model_request(
        f"{export.stage} onnx {model.number_format}",
        LIGHT,
        export.files[model.file].sha256,
        tags={"distill.stage": export.stage, "distill.digest": export.digest, "distill.task": export.task or ""},
        params={**params, "task": export.task or "", "vocabulary": export.vocabulary},
        scores=[Point(0, round(datetime.fromisoformat(export.created).timestamp() * 1000), scores)],
    )


def _settings(export: ExportManifest, form: TaskForm, model: ExportedModel) -> dict[str, Any]:
    """Return what `served_student.py` needs to read outputs."""
    return {
        "kind": form.problem.kind,
        "columns": list(_columns(form)),
        "labels": list(export.labels),
        "threshold": form.problem.threshold if isinstance(form.problem, MultiLabel) else None,
        "file": Path(model.file).name,
        "max_length": export.max_length,
        "digest": export.digest,
    }


def _as_input(texts: Mapping[str, str]) -> Any:
    import pandas as pd

    return pd.DataFrame([texts]) if "text_pair" in texts else [texts["text"]]


def _signature(form: TaskForm) -> Any:
    """Return the columns of inputs and outputs; a single text has no name, so that a list of texts is an input too."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    def listed(**fields: DataType) -> Array:
        return Array(Object([Property(name, kind) for name, kind in fields.items()]))

    text, number, whole = DataType.string, DataType.double, DataType.long
    span = {"start": whole, "end": whole}
    outputs: dict[str, list[Any]] = {
        "classification": [ColSpec(text, "label"), ColSpec(number, "score")],
        "multi_label": [ColSpec(listed(label=text, score=number), "labels")],
        "regression": [ColSpec(number, "value")],
        "embedding": [ColSpec(Array(number), "vector")],
        "token_classification": [
            ColSpec(listed(word=text, tag=text, score=number, **span), "tags"),
            ColSpec(listed(text=text, label=text, score=number, **span), "entities", required=False),
        ],
    }
    names = _columns(form)
    inputs: list[Any] = [ColSpec(text, name) for name in names] if len(names) > 1 else [ColSpec(text)]
    return ModelSignature(Schema(inputs), Schema(outputs[form.problem.kind]))


def _forget_paths(file: Path) -> None:
    """Replace this machine's path of the code by its name, by which MLflow looks for it."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = _CODE.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
