"""The choice among a teacher's candidates does not depend on the order in which they finish."""

from __future__ import annotations

from itertools import permutations

import pytest

from pipeline.execution.finished_teachers import FinishedStage, TeacherChoice
from schemas.loading.load import load_recipe
from schemas.recipe.expand import teacher_candidates
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import CheckpointRef, StageResult
from tests.support.paths import RECIPES

RATES = ("1e-5", "2e-5", "3e-5")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    grid = f"teacher.task_model.grid.learning_rate=[{', '.join(RATES)}]"
    return load_recipe("ernie-tiny", [grid], recipes_folder=RECIPES)


def finished(choice: TeacherChoice, config: StageConfig, number: int, score: float) -> FinishedStage:
    checkpoint = CheckpointRef(path=f"/store/{number}", stage=config.name, digest=f"{number}" * 64)
    result = StageResult(
        checkpoint=checkpoint,
        metrics={"eval/accuracy": 1 - score, "select/best_accuracy": score},
        steps=1,
        tokens=1,
        seconds=1.0,
    )
    return FinishedStage(config, result, ("a", "b"), f"run{number}", choice.candidate_of(config))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(("scores", "best"), [((0.5, 0.9, 0.7), 1), ((0.8, 0.8, 0.1), 0)])
def test_the_best_teacher_is_chosen_after_the_last_candidate(
    recipe: Recipe, order: tuple[int, ...], scores: tuple[float, ...], best: int
) -> None:
    choice = TeacherChoice(recipe)
    (group,) = teacher_candidates(recipe).values()
    stages = [finished(choice, config, number, scores[number]) for number, config in enumerate(group)]
    assert [choice.add(stages[number]) for number in order[:-1]] == [[], []]
    candidates = choice.add(stages[order[-1]])
    assert candidates == stages
    assert choice.available.fine_tuned == ()
    assert choice.choose(candidates) is stages[best]
    (teacher,) = choice.available.fine_tuned
    assert teacher.stage_digest == f"{best}" * 64


def test_retrying_the_last_candidate_chooses_again(recipe: Recipe) -> None:
    choice = TeacherChoice(recipe)
    (group,) = teacher_candidates(recipe).values()
    for number, config in enumerate(group):
        choice.add(finished(choice, config, number, 0.5))
    again = finished(choice, group[-1], 7, 0.9)
    candidates = choice.add(again)
    assert len(candidates) == len(RATES)
    assert choice.choose(candidates) is again
