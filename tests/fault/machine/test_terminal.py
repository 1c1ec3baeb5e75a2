"""Key presses, signals and a closed terminal during a run in a pseudo-terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.toys import toy_recipe_dict
from tests.torture.terminals import Forker, Presses, judge

PATIENCE = 2.0  # other tests run on this machine meanwhile


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with Forker(tmp_path_factory.mktemp("prefect")) as forker:
        yield forker


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    content = toy_recipe_dict(tmp_path / "in")
    content["teacher"]["minimum_gain"] = 0
    content["teacher"]["task_model"]["training"]["duration"] = "2 steps"
    content["stages"][0]["training"]["duration"] = "100000 steps"
    content["execution"]["state_minutes"] = 60
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


# The moments: the server starts, models and data are checked, a stage trains.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "words", "seconds"),
    [
        ("Ctrl-C", "", 1.0),
        ("SIGTERM to all", "checking models", 0.2),
        ("hangup", "of 100,000", 1.0),
        pytest.param("Ctrl-C twice", "of 100,000", 1.0, marks=pytest.mark.integration),
        pytest.param("SIGKILL", "of 100,000", 0.0, marks=pytest.mark.integration),
    ],
)
def test_a_key_press_ends_a_run_in_a_terminal_soon_without_leftovers(
    key: str, words: str, seconds: float, forker: Forker, recipe: Path, tmp_path: Path
) -> None:
    ended = forker.run(recipe, tmp_path / "store", key, seconds, words)
    presses = Presses()
    judge(presses, key, ended, PATIENCE)
    assert presses.losses == []
    assert ended.code != 0
    if key == "hangup":  # the state is saved although nobody reads the output
        assert list(tmp_path.glob("store/states/general-*/step-*/manifest.json"))


@pytest.mark.slow
def test_ctrl_c_during_training_saves_the_state_and_is_acknowledged_at_once(
    forker: Forker, recipe: Path, tmp_path: Path
) -> None:
    ended = forker.run(recipe, tmp_path / "store", "Ctrl-C", 1.0, "of 100,000")
    presses = Presses()
    judge(presses, "Ctrl-C", ended, PATIENCE)
    assert presses.losses == []
    assert ended.code == 1
    assert "stopping: the state is being saved; Ctrl-C once more ends it at once" in ended.output
    assert "of 100000 of general; state kept; continue with: " in ended.output
    assert list(tmp_path.glob("store/states/general-*/step-*/manifest.json"))
