"""What the launching process prepares, so that processes of a stage do not wait for each other's work."""

from __future__ import annotations

from pathlib import Path

from pipeline.processes.launch import prepare
from schemas.recipe.expand import TaskTeachers, stage_config
from stages.ports.plain import plain_ports
from stages.run import PreparedStage
from tests.support.toys import toy_recipe, toy_recipe_dict


def test_importance_is_measured_before_the_processes_start(tmp_path: Path) -> None:
    student = toy_recipe_dict(tmp_path / "in")["student"] | {"start": {"kind": "extract", "units": "importance"}}
    recipe = toy_recipe(tmp_path / "in", student=student)
    config = stage_config(recipe, recipe.stages[0], TaskTeachers())
    ports = plain_ports(tmp_path)
    prepare(config, ports, has_parent=False)
    (measured,) = (ports.cache / "importance").iterdir()
    files = {path: path.stat().st_mtime_ns for path in measured.iterdir()}
    PreparedStage.of(config, None, ports, None)
    assert list((ports.cache / "importance").iterdir()) == [measured], "a process of the stage reads it"
    assert {path: path.stat().st_mtime_ns for path in measured.iterdir()} == files
