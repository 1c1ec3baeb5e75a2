"""Settings of stages and recipes as MLflow's parameters: the same name for the same setting in every stage.

MLflow compares runs parameter by parameter, as text. So a setting that two stages share has one name and one text, a
setting that is not set has none, and a model is named by what identifies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from schemas.core.base import Frozen
from schemas.core.refs import FolderModel, HubModel, PackageModel, StudentOf, describe_model
from schemas.core.training import Amount
from schemas.data.stage_data import TaskDataset, describe_data
from schemas.data.tasks import describe_task
from schemas.recipe.objective import LatentObjective, MaskedLanguageObjective, Objective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import Committee, FinetunedTeacher, PretrainedTeacher, StageModel

# The summaries `objective` and `data` say these in words.
_SUMMARISED = ("objective.kind", "objective.latent.kind", "data.kind")


def stage_params(config: StageConfig) -> dict[str, str]:
    """Return a stage's parameters: what it learned from whom in three texts, then every setting by its path."""
    objective, data = config.objective, config.data
    params = {
        "stage": config.name,
        "teacher": describe_teacher(config.teacher),
        "data": describe_data(data),
        "objective": describe_objective(objective),
        "pretrained": _model(config.pretrained),
    }
    params |= _settings(config.student, "student")
    params |= _settings(objective, "objective.latent" if isinstance(objective, LatentObjective) else "objective")
    if isinstance(data, TaskDataset):
        params |= _settings(data.task, "data") | _settings(data.augmentation, "data.augmentation")
    else:
        params |= _settings(data, "data")
    params |= _settings(config.training, "training")
    return {name: value for name, value in params.items() if name not in _SUMMARISED}


def recipe_params(recipe: Recipe) -> dict[str, str]:
    """Return a recipe's parameters, under the names that `--set` takes; first what it makes from what, in words."""
    shape = recipe.student.shape
    params = {
        "recipe": recipe.name,
        "teacher": _model(recipe.teacher.model),
        "student": f"{shape.num_layers} layers of width {shape.hidden_size}",
        "stages": ", ".join(stage.name for stage in recipe.stages),
    }
    if recipe.task is not None:
        params["task"] = describe_task(recipe.task)
    settings = _settings(recipe, "")
    return params | {name: value for name, value in settings.items() if name not in ("name", "description")}


def describe_teacher(teacher: PretrainedTeacher | FinetunedTeacher | Committee | None) -> str:
    """Return whom a stage learned from: `pretrained: NAME`, `fine-tuned: NAME`, several with their weights."""
    match teacher:
        case None:
            return "none"
        case PretrainedTeacher():
            return f"pretrained: {_model(teacher.model)}"
        case FinetunedTeacher(model=model, stage_digest=digest):
            name = f"{model.stage}-{str(digest)[:16]}" if isinstance(model, StageModel) else _model(model)
            return f"fine-tuned: {name}"
        case Committee():
            members = zip(teacher.members, teacher.weights, strict=True)
            return " + ".join(f"{weight:.3g} {describe_teacher(member)}" for member, weight in members)


def describe_objective(objective: Objective) -> str:
    """Return the parts of an objective: `latent`, `latent + soft + hard`, `hard`."""
    parts = {"latent": objective.latent, "soft": objective.soft_label, "hard": objective.hard_label}
    text = " + ".join(name for name, part in parts.items() if part is not None)
    return f"masked words: {text}" if isinstance(objective, MaskedLanguageObjective) else text


def _model(model: HubModel | FolderModel | PackageModel | StudentOf) -> str:
    """Return the name of a model, without the folders that lead to it."""
    match model:
        case PackageModel():
            return model.distribution
        case FolderModel():
            path = Path(model.path)
            # A checkpoint's model lies in the checkpoint's folder, whose name holds the digest.
            return (path.parent.name if path.name == "model" else path.name) or model.path
    return describe_model(model)


def _settings(value: object, name: str) -> dict[str, str]:
    """Return the settings in a value by their paths; none for None and for what is empty."""
    if value is None or value == ():
        return {}
    if name == "stages" and isinstance(value, tuple):
        value = {stage.name: stage for stage in value}
    elif isinstance(value, Frozen) and not _is_atom(value):
        value = {field: getattr(value, field) for field in type(value).model_fields}
    if not isinstance(value, Mapping):
        return {name: _text(value)}
    settings: dict[str, str] = {}
    for key, part in value.items():
        settings |= _settings(part, f"{name}.{key}" if name else str(key))
    return settings


def _is_atom(value: object) -> bool:
    return isinstance(value, Amount | HubModel | FolderModel | PackageModel | StudentOf)


def _text(value: object) -> str:
    """Return a value on one line, as a recipe would write it."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.15g}"
        case Amount():
            return f"{value.amount:.15g} {value.unit}"
        case HubModel() | FolderModel() | PackageModel() | StudentOf():
            return _model(value)
        case Frozen():
            parts = {key: text for key, text in _settings(value, "").items() if key != "kind"}
            kind = getattr(value, "kind", None)
            listed = ", ".join(f"{key} {text}" for key, text in parts.items())
            return f"{kind} ({listed})" if kind and listed else str(kind or listed)
        case tuple() | list():
            return ", ".join(map(_text, value))
    return str(value)
