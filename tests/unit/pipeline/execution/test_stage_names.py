"""Names of the stages are written in one module; everything else derives from it."""

from __future__ import annotations

import ast

from pipeline.execution.prefect_tasks import _DESCRIPTIONS
from pipeline.planning.options import RunOptions
from schemas.recipe.stage import STAGE_ORDER, STAGE_TYPES, TEACHER_NAMES
from tests.support.modules import modules


def test_no_other_module_names_a_stage_of_the_student() -> None:
    named = {
        (module, node.value)
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in STAGE_ORDER
    }
    assert {module for module, _ in named} == {"schemas.recipe.stage"}
    assert {name for _, name in named} == set(STAGE_ORDER)


def test_options_and_prefect_tasks_follow_the_stages_of_a_recipe() -> None:
    schema = RunOptions.model_json_schema()["properties"]
    for option in ("from_stage", "until_stage"):
        assert schema[option]["anyOf"][0]["enum"] == list(STAGE_ORDER)
    assert set(_DESCRIPTIONS) == {*STAGE_ORDER, *TEACHER_NAMES, "hard_label_baseline"}
    for name, stage in STAGE_TYPES.items():
        assert _DESCRIPTIONS[name] == stage.__doc__
