"""Checks across the parts of a recipe, and against the teacher's actual shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import get_args

from schemas.core.layer_map import ExplicitMap, LayerMap, MeanMap, layer_targets, teacher_layers
from schemas.core.terms import Attention, Contrastive, EmbeddingStates, HiddenStates, LatentTerm, Relation
from schemas.core.wording import KeyPath, shown_path
from schemas.data.corpus import DocstringText
from schemas.data.tasks import BaseDocstringTask, TaskData
from schemas.recipe.kind_checks import (
    Mistake,
    augmentation_checks,
    head_first_checks,
    mixture_checks,
    selection_checks,
    task_checks,
)
from schemas.recipe.objective import LatentObjective
from schemas.recipe.parts import RecipeParts, TeacherShape
from schemas.recipe.stage import STAGE_ORDER, StageName
from schemas.recipe.student import ExtractStart, RandomStart, TeacherLayersStart
from schemas.recipe.teacher import FineTune


def recipe_problems(recipe: RecipeParts) -> Iterator[Mistake]:
    """Yield the mistakes that can be seen in the recipe alone."""
    yield from _order(recipe)
    yield from _several_tasks(recipe)
    yield from _missing_parts(recipe)
    yield from _missing_teachers(recipe)
    yield from _terms(recipe)
    yield from _starts(recipe)
    yield from _leaks(recipe)
    yield from _pools(recipe)
    for path, task in _tasks(recipe).items():
        yield from task_checks(recipe, tuple(path.split(".")), task)
    yield from mixture_checks(recipe)
    yield from selection_checks(recipe)
    yield from head_first_checks(recipe)
    yield from augmentation_checks(recipe)


def _order(recipe: RecipeParts) -> Iterator[Mistake]:
    names = [stage.name for stage in recipe.stages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ("stages",), name, f"{name} is listed twice; a recipe has each stage at most once"
    for index, (before, after) in enumerate(pairwise(names), start=1):
        if STAGE_ORDER.index(after) < STAGE_ORDER.index(before):
            order = ", ".join(STAGE_ORDER)
            reason = f"{after} comes after {before}; stages go from general to specific: {order}"
            yield ("stages", index, "name"), after, reason


def _several_tasks(recipe: RecipeParts) -> Iterator[Mistake]:
    if recipe.tasks is None:
        return
    names = list(recipe.tasks)
    if recipe.task is not None:
        yield ("tasks",), names, "a recipe has one task or several; leave out task or tasks"
    if recipe.shared_stages() == recipe.stages:
        reason = (
            "no stage of this recipe depends on a task, so several tasks make no difference; leave tasks out, or name "
            "one task for the common yardstick"
        )
        yield ("tasks",), names, reason


def _tasks(recipe: RecipeParts) -> dict[str, TaskData]:
    """Every task of the recipe, by its path."""
    several = {f"tasks.{name}": task for name, task in (recipe.tasks or {}).items()}
    return several if recipe.task is None else {"task": recipe.task, **several}


def _missing_parts(recipe: RecipeParts) -> Iterator[Mistake]:
    without_task = not _tasks(recipe)
    for stage in recipe.stages:
        if stage.data == "general_corpus" and recipe.general_corpus is None:
            reason = (
                f"stage {stage.name} reads a general corpus; name its sources, such as general_corpus: ./texts, or "
                "leave the stage out"
            )
            yield ("general_corpus",), None, reason
        if stage.data != "general_corpus" and without_task:
            yield ("task",), None, f"stage {stage.name} reads task data; name a task"
    if isinstance(recipe.teacher.task_model, FineTune) and without_task:
        yield ("task",), None, "the teacher is to be fine-tuned; name a task"
    if recipe.baselines and without_task:
        reason = "a baseline needs a task; name one or leave baselines empty"
        yield ("baselines",), list(recipe.baselines), reason


def _missing_teachers(recipe: RecipeParts) -> Iterator[Mistake]:
    teacher = recipe.teacher
    needed = "needs a fine-tuned teacher; give kind: fine_tune or kind: given"
    for index, stage in enumerate(recipe.stages):
        if stage.teacher == "fine_tuned":
            if teacher.task_model is None:
                yield ("teacher", "task_model"), None, f"stage {stage.name} {needed}"
            for number, other in enumerate(teacher.others):
                if other.task_model is None:
                    missing: KeyPath = ("teacher", "others", number, "task_model")
                    yield missing, None, f"stage {stage.name} {needed}"
        if stage.teacher == "multi_task" and teacher.multi_task is None:
            reason = f"stage {stage.name} learns from a multi-task teacher; name its tasks"
            yield ("teacher", "multi_task"), None, reason
        if teacher.weighting == "confidence" and stage.data == "general_corpus":
            path = ("stages", index, "name")
            reason = (
                "a general corpus has no labels, so no teacher's confidence in them is known; set "
                "teacher.weighting to fixed, or leave the stage out"
            )
            yield path, stage.name, reason


def _pools(recipe: RecipeParts) -> Iterator[Mistake]:
    """Stages on work pools must be stages of the recipe."""
    teacher = recipe.teacher
    made: dict[str, bool] = dict.fromkeys((stage.name for stage in recipe.stages), True) | {
        "teacher": isinstance(teacher.task_model, FineTune),
        "other_teacher": any(isinstance(other.task_model, FineTune) for other in teacher.others),
        "multi_task_teacher": teacher.multi_task is not None,
        "hard_label_baseline": "hard_labels" in recipe.baselines,
    }
    for name, pool in recipe.execution.pools.items():
        if not made.get(name):
            known = ", ".join(stage for stage in get_args(StageName) if made.get(stage))
            yield ("execution", "pools", name), pool, f"this recipe makes no {name}; it makes {known}"


def _latents(recipe: RecipeParts) -> Iterator[tuple[KeyPath, LatentObjective]]:
    for index, stage in enumerate(recipe.stages):
        latent = stage.objective.latent
        if latent is not None:
            inside: KeyPath = () if latent is stage.objective else ("latent",)
            yield ("stages", index, "objective", *inside), latent


def _maps(latent: LatentObjective) -> Iterator[tuple[KeyPath, LayerMap]]:
    yield ("layer_map",), latent.layer_map
    for number, term in enumerate(latent.terms):
        if (layer_map := getattr(term, "layer_map", None)) is not None:
            yield ("terms", number, "layer_map"), layer_map


def _terms(recipe: RecipeParts) -> Iterator[Mistake]:
    depth = recipe.student.shape.num_layers
    for path, latent in _latents(recipe):
        for inside, layer_map in _maps(latent):
            if isinstance(layer_map, ExplicitMap) and len(layer_map.layers) != depth:
                yield (
                    (*path, *inside, "layers"),
                    list(layer_map.layers),
                    f"{depth} student layers but {len(layer_map.layers)} teacher layers listed; "
                    "list one per student layer",
                )
        for number, term in enumerate(latent.terms):
            if isinstance(term, Relation) and isinstance(latent.map_of(term), MeanMap):
                reason = "a relation cannot learn from the mean of several blocks; choose another layer_map"
                yield (*path, "terms", number, "kind"), term.kind, reason
        yield from _width_problems(path, latent)
        yield from _projection_starts(recipe, path, latent)


def _width_problems(path: KeyPath, latent: LatentObjective) -> Iterator[Mistake]:
    if latent.common_width is not None and latent.projection == "none":
        reason = "a common_width needs projections; set projection to per_layer or shared"
        yield (*path, "projection"), latent.projection, reason


def _projection_starts(recipe: RecipeParts, path: KeyPath, latent: LatentObjective) -> Iterator[Mistake]:
    value, start = latent.projection_start, recipe.student.start
    where = (*path, "projection_start")
    if value == "random":
        return
    if latent.projection == "none":
        yield where, value, "projection is none, so no projection can be started; set projection to per_layer or shared"
    elif latent.common_width is not None:
        reason = (
            "with a common_width both sides are projected to channels that are neither's; set common_width to null, or "
            "projection_start to random"
        )
        yield where, value, reason
    elif value == "channels" and not isinstance(start, TeacherLayersStart | ExtractStart):
        reason = (
            f"a student with student.start.kind {start.kind} has no channels of the teacher; set student.start.kind to "
            "extract or teacher_layers, or projection_start to least_squares or random"
        )
        yield where, value, reason
    elif value == "channels" and recipe.teacher.others:
        reason = (
            "the student has channels of the first teacher alone, not of teacher.others; set projection_start to "
            "least_squares or random, or leave the others out"
        )
        yield where, value, reason


def _starts(recipe: RecipeParts) -> Iterator[Mistake]:
    start, first = recipe.student.start, recipe.stages[0].training
    if isinstance(start, RandomStart) and first.frozen != "none":
        reason = (
            "the first stage would keep random word embeddings as they are; set frozen to none, or student.start.kind "
            "to extract, teacher_layers or model"
        )
        yield ("stages", 0, "training", "frozen"), first.frozen, reason
    if recipe.student.model_type is not None and not isinstance(start, RandomStart):
        reason = "a student of another model family cannot copy parts of the teacher; set student.start.kind to random"
        yield ("student", "start", "kind"), start.kind, reason
    if not isinstance(start, TeacherLayersStart | ExtractStart):
        return
    layer_map, depth = start.layer_map, recipe.student.shape.num_layers
    if isinstance(layer_map, ExplicitMap) and (len(layer_map.layers) != depth or None in layer_map.layers):
        path = ("student", "start", "layer_map", "layers")
        reason = f"list one teacher layer for each of the {depth} student layers"
        yield path, list(layer_map.layers), reason


def _leaks(recipe: RecipeParts) -> Iterator[Mistake]:
    """Docstring corpus and docstring task must exclude the same modules."""
    tasks = [task for task in _tasks(recipe).values() if isinstance(task, BaseDocstringTask)]
    sources = recipe.general_corpus.sources if recipe.general_corpus is not None else ()
    for index, source in enumerate(sources):
        if not isinstance(source, DocstringText):
            continue
        for task, name in product(tasks, ("validation_ratio", "seed")):
            if getattr(source, name) != getattr(task, name):
                yield (
                    ("general_corpus", "sources", index, name),
                    getattr(source, name),
                    f"the task's {name} is {getattr(task, name)}; give the same, or the corpus would train "
                    "on modules that the task validates on",
                )


def teacher_problems(recipe: RecipeParts, teacher: TeacherShape, *, is_first: bool = True) -> list[str]:
    """List the mistakes that the teacher's actual shape shows, one line each with its path in the recipe.

    Args:
        recipe: the recipe.
        teacher: the shape.
        is_first: whether it is the first teacher, from which the student may start, and not one of the others.
    """
    problems: list[str] = []
    for path, latent in _latents(recipe):
        prefix = shown_path(path)
        for inside, layer_map in _maps(latent):
            try:
                layer_targets(
                    layer_map, num_student_layers=recipe.student.shape.num_layers, num_teacher_layers=teacher.num_layers
                )
            except ValueError as error:
                problems.append(f"{prefix}.{shown_path(inside)}: {error}")
        for number, term in enumerate(latent.terms):
            problems += [
                f"{prefix}.terms[{number}]{reason}" for reason in _term_problems(term, latent, recipe, teacher)
            ]
    if is_first:
        problems += _start_problems(recipe, teacher)
    corpus = {} if recipe.general_corpus is None else {"general_corpus": recipe.general_corpus}
    for name, data in {**_tasks(recipe), **corpus}.items():
        if data.max_length > teacher.max_positions:
            problems.append(
                f"{name}.max_length: {data.max_length} tokens, but the teacher reads at most {teacher.max_positions}"
            )
    return problems


def _term_problems(
    term: LatentTerm, latent: LatentObjective, recipe: RecipeParts, teacher: TeacherShape
) -> Iterator[str]:
    shape = recipe.sized_student.shape
    heads = shape.num_attention_heads, teacher.num_attention_heads
    headwise = isinstance(term, Attention) or (isinstance(term, Relation) and not term.num_heads)
    if headwise and heads[0] != heads[1]:
        remedy = "give num_heads" if isinstance(term, Relation) else "match relations, which have num_heads"
        yield (
            f": {term.kind} is matched head by head, but the student has {heads[0]} heads and the teacher "
            f"{heads[1]}; set student.shape.num_attention_heads to {heads[1]}, or {remedy}"
        )
    num_heads = getattr(term, "num_heads", None)
    if num_heads:
        widths = shape.hidden_size, teacher.hidden_size
        if any(width % num_heads for width in widths):
            legal = [n for n in range(1, min(widths) + 1) if not any(w % n for w in widths)]
            yield (
                f".num_heads: {num_heads} relation heads do not divide both widths, {widths[0]} (student) and "
                f"{widths[1]} (teacher); legal: {', '.join(map(str, legal))}"
            )
    projected = isinstance(term, HiddenStates | EmbeddingStates | Contrastive)
    if projected and latent.projection == "none" and shape.hidden_size != teacher.hidden_size:
        yield (
            f": without a projection the widths must be equal, but the student has {shape.hidden_size} and the "
            f"teacher {teacher.hidden_size}; set projection to per_layer, or student.shape.hidden_size to "
            f"{teacher.hidden_size}"
        )


def _start_problems(recipe: RecipeParts, teacher: TeacherShape) -> list[str]:
    shape, start = recipe.sized_student.shape, recipe.student.start
    if not isinstance(start, TeacherLayersStart | ExtractStart):
        return []
    problems = []
    for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
        size, largest = getattr(shape, name), getattr(teacher, name)
        if isinstance(start, TeacherLayersStart) and size != largest:
            problems.append(
                f"student.shape.{name}: {size}, but layers copied from the teacher need its {largest}; change the "
                "shape, or set student.start.kind to extract or random"
            )
        if isinstance(start, ExtractStart) and size > largest:
            problems.append(
                f"student.shape.{name}: {size}, but only {largest} can be extracted from the teacher; lower it, or "
                "set student.start.kind to random"
            )
    try:
        teacher_layers(start.layer_map, num_student_layers=shape.num_layers, num_teacher_layers=teacher.num_layers)
    except ValueError as error:
        problems.append(f"student.start.layer_map: {error}")
    return problems
