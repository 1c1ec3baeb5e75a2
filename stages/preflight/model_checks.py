"""Check that the models of a recipe fit together and support its objectives, before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import Embedding, TaskKind
from schemas.core.layer_map import teacher_layers
from schemas.core.refs import describe_model
from schemas.core.terms import Attention, Relation
from schemas.recipe.checks import teacher_problems
from schemas.recipe.objective import MaskedLanguageObjective, TaskObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import Stage
from schemas.recipe.student import ExtractStart, ModelStart, TeacherLayersStart
from schemas.recipe.teacher import AlreadyFineTuned
from stages.build import check_shape, read_extraction, read_projections
from stages.kinds.registry import kind_of
from stages.models.encoders import check_same_vocabulary, load_config, load_tokenizer, locate, probed, shape_of
from stages.models.extraction.extract import choose_parts, extract_student
from stages.models.masked_lm import has_word_head
from stages.models.sentence_encoder import DENSE, vector_width
from stages.models.student import check_copied_layers, student_config
from stages.models.weights import check_weights
from stages.objective.latent_terms import projected_states
from stages.objective.projection_start import unknown_channels

_STAGE = re.compile(r"stages\[\d+\]")


@dataclass(frozen=True)
class Models:
    """Configs of the models of a recipe."""

    folder: Path
    """Folder of the pretrained teacher."""
    teacher: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    """Tokenizer of the teacher, which all models share."""
    student: PretrainedConfig


def check_models(recipe: Recipe) -> Models:
    """Check the models that a recipe names, except for given fine-tuned teachers.

    Raises:
        ConfigError: the recipe does not fit the models; all mistakes at once.
        DataError: a model is missing or damaged, or cannot be used together with the others.
        ServiceError: a model hub is needed and cannot be reached.
    """
    folder = locate(recipe.pretrained)
    teacher = load_config(folder)
    check_weights(AutoModel, folder, teacher)
    tokenizer = load_tokenizer(folder, teacher)
    student = _student_config(recipe, teacher, folder)
    configs = {describe_model(recipe.pretrained): teacher, "student": student}
    problems = teacher_problems(recipe, shape_of(teacher))
    problems = problems or list(_reading_problems(recipe, recipe.stages, configs))
    for index, other in enumerate(recipe.teacher.others):
        problems += _other_problems(recipe, locate(other.model), folder, f"teacher.others[{index}]")
    problems += _head_problems(recipe, teacher, student)
    problems += _word_problems(recipe, folder, student, has_mask=tokenizer.mask_token_id is not None)
    if problems:
        raise _refused(recipe, problems)
    _check_start(recipe, teacher, folder)
    return Models(folder, teacher, tokenizer, student)


def _refused(recipe: Recipe, problems: list[str]) -> ConfigError:
    return ConfigError([f"recipe {recipe.name}: {problem}" for problem in once_each(problems)])


def once_each(problems: list[str]) -> list[str]:
    """Return distinct problems; one that several stages share is prefixed with all of them."""
    stages: dict[str, dict[str, None]] = {}
    for problem in problems:
        stage = _STAGE.match(problem)
        name = stage[0] if stage else ""
        stages.setdefault(problem[len(name) :], {})[name] = None
    return [", ".join(names) + problem for problem, names in stages.items()]


def _student_config(recipe: Recipe, teacher: PretrainedConfig, folder: Path) -> PretrainedConfig:
    """Return the config of the student, or of the model that it starts from."""
    start = recipe.student.start
    if not isinstance(start, ModelStart):
        return student_config(teacher, recipe.sized_student.shape, recipe.student.model_type)
    model = locate(start.model)
    config = load_config(model)
    check_weights(AutoModel, model, config)
    check_same_vocabulary(model, folder, key="student.start.model")
    check_shape(shape_of(config), recipe.sized_student.shape, model)
    _check_positions(recipe, config, model, "student.start.model")
    return config


def _check_positions(recipe: Recipe, config: PretrainedConfig, folder: Path, path: str) -> None:
    """Refuse a model with fewer positions than `max_length` of the data."""
    most = shape_of(config).max_positions
    for name in ("task", "general_corpus"):
        data = getattr(recipe, name)
        if data is not None and data.max_length > most:
            raise DataError(
                f"{path}: {folder} reads at most {most} tokens, but {name}.max_length is {data.max_length}; lower it, "
                "or give another model"
            )


def _reading_problems(recipe: Recipe, stages: tuple[Stage, ...], models: dict[str, PretrainedConfig]) -> Iterator[str]:
    """Yield terms that cannot be read from a model of these families."""
    for stage in stages:
        latent = stage.objective.latent
        if latent is None:
            continue
        path = f"stages[{recipe.stages.index(stage)}].objective.terms"
        for name, config in models.items():
            wanted = [term for term in latent.terms if isinstance(term, Attention | Relation)]
            if wanted and (reason := probed(config).attention) is not None:
                yield (
                    f"{path}: {wanted[0].kind} cannot be read from a {config.model_type} model ({name}): {reason}; "
                    "omit the term, match hidden states, or use another model"
                )
            if len(wanted) < len(latent.terms) and (reason := probed(config).hidden_states):
                yield (
                    f"{path}: hidden states cannot be read from a {config.model_type} model "
                    f"({name}): {reason}; omit those terms, or use another model"
                )


def _other_problems(recipe: Recipe, folder: Path, first: Path, path: str) -> list[str]:
    """Return the problems of one further teacher."""
    config = load_config(folder)
    check_weights(AutoModel, folder, config)
    check_same_vocabulary(folder, first, key=f"{path}.model")
    problems = teacher_problems(recipe, shape_of(config), is_first=False)
    problems = problems or list(_reading_problems(recipe, recipe.stages, {str(folder): config}))
    if recipe.task is not None and not kind_of(recipe.task.problem).head.exists_for(config):
        problems.append(_no_head(config, recipe.task.problem))
    return [f"{path}: {problem}" for problem in problems]


def _head_problems(recipe: Recipe, teacher: PretrainedConfig, student: PretrainedConfig) -> list[str]:
    """Return the families that have no head for the kind of task."""
    if recipe.task is None:
        return []
    problem = recipe.task.problem
    families = {config.model_type: config for config in (teacher, student)}
    return [_no_head(config, problem) for config in families.values() if not kind_of(problem).head.exists_for(config)]


def _no_head(config: PretrainedConfig, problem: TaskKind) -> str:
    return (
        f"task.problem: transformers has no {problem.kind} head for {config.model_type} models; use a teacher and "
        "student of another family, such as bert, roberta or modernbert"
    )


def _word_problems(recipe: Recipe, folder: Path, student: PretrainedConfig, *, has_mask: bool) -> list[str]:
    """Return settings that need a mask token or a masked-language head that the models lack."""
    problems: list[str] = []
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage.objective, MaskedLanguageObjective):
            continue
        path = f"stages[{index}].objective"
        if not has_mask:
            problems.append(f"{path}.kind: the teacher's tokenizer has no mask token; choose kind: latent")
        if type(student) not in MODEL_FOR_MASKED_LM_MAPPING:
            problems.append(
                f"{path}.kind: transformers has no masked-language head for {student.model_type} models; choose kind: "
                "latent, or set student.model_type to another family, such as bert"
            )
        if stage.objective.soft_label is not None and not has_word_head(folder):
            problems.append(
                f"{path}.soft_label: {describe_model(recipe.pretrained)} has no masked-language head, so it has no "
                "answers at masked words; give a teacher that was pretrained on masked words, or set soft_label to null"
            )
    start, copies = recipe.student.start, recipe.augmentation
    if not has_mask and isinstance(start, ExtractStart) and start.units == "importance":
        problems.append(
            "student.start.units: importance is measured on masked words, and the teacher's tokenizer has no mask "
            "token; set student.start.units to random"
        )
    predicts = copies is not None and copies.masked_language != "never" and has_word_head(folder)
    if predicts and not has_mask:
        assert copies is not None
        problems.append(
            f"augmentation.masked_language: {copies.masked_language}, but the teacher's tokenizer has no mask token, "
            "so no word can be predicted; give never, or another teacher"
        )
    if not problems and _uses_word_head(recipe) and has_word_head(folder):
        check_weights(AutoModelForMaskedLM, folder, load_config(folder))
    return problems


def _uses_word_head(recipe: Recipe) -> bool:
    """Return whether the recipe uses the teacher's masked-language head, if it has one."""
    start = recipe.student.start
    return (
        any(isinstance(stage.objective, MaskedLanguageObjective) for stage in recipe.stages)
        or (isinstance(start, ExtractStart) and start.units == "importance")
        or (recipe.augmentation is not None and recipe.augmentation.masked_language != "never")
    )


def _check_start(recipe: Recipe, teacher: PretrainedConfig, folder: Path) -> None:
    """Refuse a start that the teacher does not allow, by building it on the meta device."""
    student, start = recipe.sized_student, recipe.student.start
    if isinstance(start, TeacherLayersStart):
        check_copied_layers(student, start, teacher)
    elif isinstance(start, ExtractStart):
        layers = teacher_layers(
            start.layer_map, num_student_layers=student.shape.num_layers, num_teacher_layers=teacher.num_hidden_layers
        )
        config = student_config(teacher, student.shape, layers=layers)
        extraction = choose_parts(teacher, config, layers, importance=None, seed=start.seed)
        with torch.device("meta"):
            extract_student(AutoModel.from_config(load_config(folder)), config, extraction)


def check_parent_channels(parent: Path, recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Refuse a checkpoint without known channels if a stage after it starts projections from channels.

    Args:
        parent: the checkpoint.
        recipe: names the teacher.
        stages: those to run, in order.

    Raises:
        ConfigError: names the first stage and the projections that no earlier stage has trained.
    """
    extraction = read_extraction(parent) or {}
    student, teacher = load_config(parent / "model"), load_config(locate(recipe.pretrained))
    if "hidden_channels" in extraction or student.hidden_size == teacher.hidden_size:
        return
    trained = {name.removeprefix("maps.").rpartition(".")[0] for name in read_projections(parent)}
    for stage in stages:
        if (latent := stage.objective.latent) is None or latent.projection == "none":
            continue
        states = projected_states(latent, student, teacher)
        names = ["shared"] if latent.projection == "shared" and states else states
        fresh = [name for name in names if name not in trained]
        if fresh and latent.projection_start == "channels":
            raise unknown_channels(fresh, parent, stage=stage.name)
        trained |= set(names)


def check_given_teachers(recipe: Recipe, models: Models, labels: tuple[str, ...]) -> None:
    """Refuse given fine-tuned teachers that do not fit the task.

    Args:
        recipe: names the teachers.
        models: the other models.
        labels: of the task.

    Raises:
        ConfigError: the shape of a teacher does not fit its stages.
        DataError: a teacher cannot be used.
    """
    task_models = {"teacher.task_model.model": recipe.teacher.task_model}
    for index, other in enumerate(recipe.teacher.others):
        task_models[f"teacher.others[{index}].task_model.model"] = other.task_model
    for path, task_model in task_models.items():
        if isinstance(task_model, AlreadyFineTuned):
            _check_given(recipe, task_model, labels, models.folder, path)


def _channel_problems(
    recipe: Recipe, stages: Sequence[Stage], given: PretrainedConfig, pretrained: PretrainedConfig
) -> Iterator[str]:
    """Yield stages whose projections select channels of the pretrained model in a teacher of another width."""
    for stage in stages if given.hidden_size != pretrained.hidden_size else ():
        latent = stage.objective.latent
        if latent is not None and latent.projection_start == "channels":
            yield (
                f"stages[{recipe.stages.index(stage)}].objective: projection_start is channels, but the student's "
                f"channels are those of a model {pretrained.hidden_size} wide and this teacher is "
                f"{given.hidden_size} wide; set projection_start to least_squares or random"
            )


def _check_given(recipe: Recipe, model: AlreadyFineTuned, labels: tuple[str, ...], pretrained: Path, path: str) -> None:
    assert recipe.task is not None
    head, folder = kind_of(recipe.task.problem).head, locate(model.model)
    config = load_config(folder)
    head.check_trained(folder, describe_model(model.model))
    head.check_weights(folder, config)
    check_same_vocabulary(folder, pretrained, key=path)
    _check_positions(recipe.model_copy(update={"general_corpus": None}), config, folder, path)
    stages = tuple(stage for stage in recipe.stages if stage.teacher == "fine_tuned")
    places = tuple(f"stages[{recipe.stages.index(stage)}]." for stage in stages)
    problems = teacher_problems(recipe, shape_of(config), is_first=False)
    problems = [problem for problem in problems if problem.startswith(places)]
    problems += _channel_problems(recipe, stages, config, load_config(pretrained))
    problems = problems or list(_reading_problems(recipe, stages, {str(folder): config}))
    if problems:
        raise _refused(recipe, [f"{path}: {problem}" for problem in problems])
    if model is recipe.teacher.task_model:
        _check_head_start(recipe, folder, config)
    head.match_labels(head.load(folder), labels, folder)


def _check_head_start(recipe: Recipe, folder: Path, teacher: PretrainedConfig) -> None:
    """Refuse to start a student's head from a teacher's map of vectors if the student has no map.

    A student that is as wide as the vectors has none, because its states are the vectors.
    """
    assert recipe.task is not None
    width = vector_width(folder, teacher)
    if not isinstance(recipe.task.problem, Embedding) or not (folder / DENSE).is_dir():
        return
    problems = [
        f"stages[{index}].objective.head: {stage.objective.head}, but the student's states are its vectors, {width} "
        f"wide, so that it has no layer that could start as the teacher's map of {teacher.hidden_size} to {width}; set "
        "it to fresh, or give student.shape.hidden_size another value"
        for index, stage in enumerate(recipe.stages)
        if isinstance(stage.objective, TaskObjective) and stage.objective.head != "fresh"
    ]
    if problems and recipe.student.shape.hidden_size == width:
        raise _refused(recipe, problems)
