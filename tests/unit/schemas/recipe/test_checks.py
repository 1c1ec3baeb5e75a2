"""Inconsistent parts of a recipe are refused with a location and a remedy."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.recipe.checks import teacher_problems
from schemas.recipe.parts import TeacherShape
from schemas.recipe.recipe import Recipe
from tests.support.toys import toy_recipe_dict

TEACHER = TeacherShape(
    num_layers=4, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=80, max_positions=64
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return toy_recipe_dict(tmp_path_factory.mktemp("toy"))


def changed(content: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    copy = deepcopy(content)
    for path, value in changes:
        *parents, last = path.split(".")
        node: Any = copy
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    return copy


def latent(*terms: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"kind": "latent", "terms": list(terms), **options}


@pytest.mark.parametrize(
    ("changes", "location", "reason"),
    [
        (
            [("stages.1.teacher", "multi_task")],
            "teacher.multi_task",
            "learns from a multi-task teacher; name its tasks",
        ),
        ([("teacher.others", [{"model": "./other"}])], "teacher.others.0.task_model", "needs a fine-tuned teacher"),
        ([("teacher.weighting", "confidence")], "stages.0.name", "a general corpus has no labels"),
        (
            [("stages.0.objective", latent({"kind": "hidden"}, common_width=8, projection="none"))],
            "stages.0.objective.projection",
            "a common_width needs projections",
        ),
        (
            [("stages.0.objective", latent({"kind": "relation"}, layer_map={"kind": "mean"}))],
            "stages.0.objective.terms.0.kind",
            "cannot learn from the mean of several blocks",
        ),
        (
            [("stages.0.objective", latent({"kind": "hidden", "layer_map": {"kind": "explicit", "layers": [0]}}))],
            "stages.0.objective.terms.0.layer_map.layers",
            "2 student layers but 1 teacher layers listed",
        ),
        (
            [("student.model_type", "distilbert"), ("student.start", {"kind": "extract"})],
            "student.start.kind",
            "cannot copy parts of the teacher",
        ),
        (
            [("student.start", {"kind": "extract", "layer_map": {"kind": "explicit", "layers": [0, None]}})],
            "student.start.layer_map.layers",
            "list one teacher layer for each of the 2 student layers",
        ),
        (
            [("stages.0.training.head_first", {"share": 0.2})],
            "stages.0.training.head_first",
            "stage general has no head: its objective compares what the body computes",
        ),
        (
            [("stages.0.objective", {"kind": "masked_language"}), ("stages.0.training.head_first", {})],
            "stages.0.training.head_first",
            "the head of stage general is the table of words, which is part of the body",
        ),
        (
            [
                ("teacher.task_model", {"kind": "given", "model": "./other"}),
                ("task.problem", "embedding"),
                ("stages.3.objective.hard_label", None),
                ("stages.3.training.head_first", {}),
            ],
            "stages.3.training.head_first",
            "the vectors of an embedding task are the body's own states",
        ),
        (
            [("teacher.task_model", {"kind": "given", "model": "./other", "training": {"head_first": {}}})],
            "teacher.task_model.given.training",
            "Extra inputs are not permitted",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    content: dict[str, Any], changes: list[tuple[str, Any]], location: str, reason: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate(changed(content, *changes))
    messages = {".".join(map(str, error["loc"])): error["msg"] for error in refused.value.errors()}
    assert location in messages, messages
    assert reason in messages[location]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [("stages.0.objective", latent({"kind": "relation", "num_heads": 3}))],
            "stages[0].objective.terms[0].num_heads: 3 relation heads do not divide both widths, 8 (student) and 16 "
            "(teacher); legal: 1, 2, 4, 8",
        ),
        (
            [("stages.0.objective", latent({"kind": "sample_relation"}))],
            "stages[0].objective.terms[0].num_heads: 64 relation heads",
        ),
        (
            [("stages.0.objective", latent({"kind": "hidden"}, projection="none"))],
            "without a projection the widths must be equal, but the student has 8 and the teacher 16",
        ),
        (
            [("student.shape.num_attention_heads", 4), ("stages.0.objective", latent({"kind": "relation"}))],
            "relation is matched head by head, but the student has 4 heads and the teacher 2",
        ),
        (
            [("student.shape.intermediate_size", 64), ("student.start", {"kind": "extract"})],
            "student.shape.intermediate_size: 64, but only 32 can be extracted from the teacher",
        ),
        (
            [("stages.0.objective", latent({"kind": "hidden"}, layer_map={"kind": "last", "teacher_layer": 9}))],
            "stages[0].objective.layer_map: teacher layer 9 does not exist",
        ),
    ],
)
def test_mismatches_with_the_teacher_s_shape_are_reported(
    content: dict[str, Any], changes: list[tuple[str, Any]], expected: str
) -> None:
    problems = teacher_problems(Recipe.model_validate(changed(content, *changes)), TEACHER)
    assert any(expected in problem for problem in problems), problems


def test_a_recipe_that_fits_has_no_problems(content: dict[str, Any]) -> None:
    assert teacher_problems(Recipe.model_validate(content), TEACHER) == []
