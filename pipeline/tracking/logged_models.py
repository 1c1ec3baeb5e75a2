"""Models of MLflow 3: created, filled, scored and finished by one request, which may be sent again.

A logged model has an id, a name, the run that made it, parameters, tags and scores of its own; the experiment's
*Models* tab lists them. Its files are those of the request. A request that was cut off is completed when it is sent
again: the model is found by its run, its name and its identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.tracking.client import clean, flat, http_status, safe_name
from pipeline.tracking.run_files import Point, Request

IDENTITY_TAG = "distill.identity"
"""Tells a model from others of the same run and name."""
MLMODEL = "MLmodel"
_FORBIDDEN = str.maketrans({sign: "_" for sign in "/:.%\"'"})
_NOT_FOUND = 404
_MOST_MODELS = 100


def model_request(
    name: str,
    path: str,
    identity: str,
    *,
    tags: Mapping[str, object],
    params: Mapping[str, object],
    scores: Iterable[Point],
) -> Request:
    """Return the request that logs a model with the files that are sent with it.

    Args:
        name: the model's name; signs that MLflow refuses are replaced.
        path: folder of the files among the run's artifacts on servers older than MLflow 3, which have no such models.
        identity: digest of the content, so that one that was logged before is found again.
        tags: tags of the model.
        params: parameters; nested ones get dotted names.
        scores: its scores, which the run gets too; those that the run has already, at the same time, count once.
    """
    metrics = [[point.step, point.time, point.metrics] for point in scores]
    values = {
        "name": name.translate(_FORBIDDEN),
        "path": path,
        "identity": identity,
        "tags": json.dumps(clean(tags)),
        "params": json.dumps({safe_name(key): value for key, value in flat(params).items()}),
        "metrics": json.dumps(metrics),
    }
    return Request(kind="model", values=values)


def send_model(client: Any, run_id: str, values: Mapping[str, str], files: Path) -> str | None:
    """Log a model of a run, or complete one that an earlier attempt began.

    Args:
        client: MLflow's client.
        run_id: the run that made it.
        values: those of the request.
        files: the model's files; its MLmodel gets the model's id.

    Returns:
        MLflow's id of the model; None on a server older than MLflow 3, where the files are artifacts of the run.
    """
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    run = client.get_run(run_id)
    try:
        model = _logged(client, run, values) or client.create_logged_model(
            run.info.experiment_id,
            name=values["name"],
            source_run_id=run_id,
            tags={**json.loads(values["tags"]), IDENTITY_TAG: values["identity"]},
            params=json.loads(values["params"]),
        )
    except MlflowException as error:
        if http_status(error) != _NOT_FOUND:
            raise
        client.log_artifacts(run_id, str(files), values["path"])
        return None
    model_id = str(model.model_id)
    if model.status != LoggedModelStatus.READY:
        _name_model(files / MLMODEL, model, run_id)
        client.log_model_artifacts(model_id, str(files))
        _tie(client, run, model_id)
        _score(client, run_id, model_id, json.loads(values["metrics"]))
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def _logged(client: Any, run: Any, values: Mapping[str, str]) -> Any | None:
    """Return the run's model of that name and identity; None if there is none."""
    models = client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"name = '{values['name']}' AND tags.`{IDENTITY_TAG}` = '{values['identity']}'",
        max_results=_MOST_MODELS,
    )
    return next((model for model in models if model.source_run_id == run.info.run_id), None)


def _name_model(file: Path, model: Any, run_id: str) -> None:
    """Write the ids that only the server knows into an MLmodel file, if the model has one."""
    if not file.is_file():
        return
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content |= {
        "model_id": model.model_id,
        "model_uuid": model.model_id,
        "run_id": run_id,
        "artifact_path": model.artifact_location,
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def _tie(client: Any, run: Any, model_id: str) -> None:
    """Show a model among its run's outputs, once."""
    from mlflow.entities import LoggedModelOutput

    outputs = run.outputs.model_outputs if run.outputs else []
    if model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])


def _score(client: Any, run_id: str, model_id: str, points: list[tuple[int, int, dict[str, float]]]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(safe_name(name), value, time, step, model_id=model_id, run_id=run_id)
        for step, time, values in points
        for name, value in values.items()
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)
