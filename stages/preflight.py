"""Checks a recipe against the models and the data it names, before any long work, and says what it will cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from schemas.cards import DataCard
from schemas.errors import ConfigError
from schemas.layer_map import teacher_layers
from schemas.objective import MaskedLanguageObjective, latent_of
from schemas.problems import AnyProblem
from schemas.recipe import Recipe
from schemas.refs import describe_model
from schemas.student import ExtractStart, ModelStart, StudentShape
from schemas.teacher import AlreadyFineTuned
from schemas.terms import Attention, Relation
from stages.corpus import load_corpus
from stages.data_card import make_data_card
from stages.encoders import (
    check_same_vocabulary,
    load_config,
    load_tokenizer,
    locate,
    probed,
    shape_of,
)
from stages.extraction import choose_parts
from stages.heads import check_outputs, check_trained_head, has_head_for, load_with_head
from stages.models import check_shape
from stages.score_checks import check_scores
from stages.sources import TaskRows, load_task
from stages.student import count_parameters, student_config
from stages.words import has_word_head


@dataclass(frozen=True)
class Facts:
    """What the look at models and data found."""

    teacher: StudentShape
    student: StudentShape
    teacher_parameters: int
    student_parameters: int
    labels: tuple[str, ...]
    card: DataCard
    """What is read."""


def preflight(recipe: Recipe, cache: Path) -> Facts:
    """Look at everything the recipe names.

    Raises:
        ConfigError: the recipe does not fit the teacher; every problem at once.
        DataError: a model or a data set is missing or cannot be used as it is.
        ServiceError: a model hub is needed and cannot be reached.
    """
    folder = locate(recipe.pretrained)
    config = load_config(folder)
    tokenizer = load_tokenizer(folder, config)
    problems = recipe.problems_with(shape_of(config)) or _reading_problems(recipe, config)
    for index, other in enumerate(recipe.teacher.others):
        other_folder = locate(other.model)
        check_same_vocabulary(other_folder, folder, place=f"teacher.others[{index}].model")
        found = recipe.problems_with(shape_of(load_config(other_folder)), is_first=False)
        problems += [f"teacher.others[{index}]: {problem}" for problem in found]
    problems += _head_problems(recipe, config)
    problems += _word_problems(recipe, folder, has_mask=tokenizer.mask_token_id is not None)
    if problems:
        raise ConfigError([f"recipe {recipe.name}: {problem}" for problem in problems])
    student = student_config(config, recipe.student.shape, recipe.student.model_type)
    _check_start(recipe, config, student, folder)
    rows, remarks = _look_at_data(recipe, cache)
    labels = rows.labels if rows is not None else ()
    if rows is not None:
        check_scores(recipe, rows)
    for task_model in (recipe.teacher.task_model, *(o.task_model for o in recipe.teacher.others)):
        if isinstance(task_model, AlreadyFineTuned):
            assert recipe.task is not None
            _check_given_teacher(task_model, labels, recipe.task.problem, folder)
    shape = shape_of(config)
    return Facts(
        teacher=StudentShape(**{name: getattr(shape, name) for name in StudentShape.model_fields}),
        student=recipe.student.shape,
        teacher_parameters=count_parameters(config),
        student_parameters=count_parameters(student),
        labels=labels,
        card=_with_remarks(make_data_card(recipe, tokenizer, cache), remarks),
    )


def _with_remarks(card: DataCard, remarks: tuple[str, ...]) -> DataCard:
    """The card with how the task's files were read; it is not kept with them, since they name the files."""
    if card.task is None:
        return card
    task = card.task.model_copy(update={"remarks": remarks})
    return card.model_copy(update={"task": task})


def _look_at_data(recipe: Recipe, cache: Path) -> tuple[TaskRows | None, tuple[str, ...]]:
    """Read whatever the recipe trains on; the rows of its task, and how they and those of other tasks were read."""
    droppable, rows = recipe.limits.dropped, None
    remarks: dict[str, None] = {}
    if recipe.task is not None:
        rows = load_task(recipe.task, cache, droppable=droppable)
        remarks |= dict.fromkeys(rows.remarks)
    if recipe.teacher.multi_task is not None:
        for task in recipe.teacher.multi_task.tasks.values():
            other = load_task(task, cache, droppable=droppable)
            remarks |= dict.fromkeys(other.remarks)
    if recipe.general_corpus is not None:  # last, because it is the longest to read
        load_corpus(recipe.general_corpus, cache)
    return rows, tuple(remarks)


def _reading_problems(recipe: Recipe, teacher: PretrainedConfig) -> list[str]:
    """Objectives that ask for what a model of these families does not show."""
    student = student_config(teacher, recipe.student.shape, recipe.student.model_type)
    problems: list[str] = []
    for index, stage in enumerate(recipe.stages):
        latent = latent_of(stage.objective)
        if latent is None:
            continue
        for config, whose in ((teacher, describe_model(recipe.pretrained)), (student, "student")):
            wanted = [term for term in latent.terms if isinstance(term, Attention | Relation)]
            if wanted and (reason := probed(config).attention) is not None:
                problems.append(
                    f"stages[{index}].objective.terms: {wanted[0].kind} cannot be read from a {config.model_type} "
                    f"model ({whose}): {reason}; leave the term out, or take another model"
                )
            if len(wanted) < len(latent.terms) and (reason := probed(config).hidden_states):
                problems.append(
                    f"stages[{index}].objective.terms: hidden states cannot be read from a {config.model_type} model "
                    f"({whose}): {reason}; leave those terms out, or take another model"
                )
    return problems


def _head_problems(recipe: Recipe, teacher: PretrainedConfig) -> list[str]:
    """Kinds of tasks that a family has no head for."""
    if recipe.task is None:
        return []
    student = student_config(teacher, recipe.student.shape, recipe.student.model_type)
    problem = recipe.task.problem
    families = {config.model_type: config for config in (teacher, student)}
    return [
        f"task.problem: transformers has no {problem.kind} head for {family} models; take teacher and student of "
        "another family, such as bert, roberta or modernbert"
        for family, config in families.items()
        if not has_head_for(config, problem)
    ]


def _word_problems(recipe: Recipe, folder: Path, *, has_mask: bool) -> list[str]:
    problems: list[str] = []
    for index, stage in enumerate(recipe.stages):
        if not isinstance(stage.objective, MaskedLanguageObjective):
            continue
        place = f"stages[{index}].objective"
        if not has_mask:
            problems.append(
                f"{place}.kind: the teacher's tokenizer has no mask token; choose kind: latent"
            )
        if stage.objective.soft_label is not None and not has_word_head(folder):
            problems.append(
                f"{place}.soft_label: {describe_model(recipe.pretrained)} has no masked-language head, so it has no "
                "answers at masked words; give a teacher that was pretrained on masked words, or set soft_label to null"
            )
    return problems


def _check_start(
    recipe: Recipe, teacher: PretrainedConfig, student: PretrainedConfig, folder: Path
) -> None:
    """Refuse a start that the teacher cannot give, or that does not share its vocabulary."""
    start = recipe.student.start
    if isinstance(start, ModelStart):
        given = locate(start.model)
        check_same_vocabulary(given, folder, place="student.start.model")
        check_shape(shape_of(load_config(given)), recipe.student.shape, given)
    elif isinstance(start, ExtractStart):
        layers = teacher_layers(
            start.layer_map,
            num_student_layers=student.num_hidden_layers,
            num_teacher_layers=teacher.num_hidden_layers,
        )
        choose_parts(teacher, student, layers, importance=None, seed=start.seed)


def _check_given_teacher(
    given: AlreadyFineTuned, labels: tuple[str, ...], problem: AnyProblem, pretrained: Path
) -> None:
    folder = locate(given.model)
    name = describe_model(given.model)
    check_trained_head(folder, problem, name)
    check_same_vocabulary(folder, pretrained, place="teacher.task_model.model")
    check_outputs(load_with_head(folder, problem), problem, labels, folder)
