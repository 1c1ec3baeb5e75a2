"""Runs that a recipe stands for: by task and by seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipes.shipped import RECIPES, read_recipe, read_recipes
from schemas.core.errors import ConfigError
from schemas.recipe.expand import teacher_configs
from schemas.recipe.recipe import Variant


def seeds_in(value: Any) -> Iterator[int]:
    """Yield every seed of a dumped recipe."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if key == "seed":
            yield item
        else:
            yield from seeds_in(item)


# The second has random layer maps, the third a start that is drawn.
@pytest.mark.parametrize("name", ["quickstart", "rail-kd", "etd-rand"])
def test_a_seed_is_that_of_student_and_stages_and_of_nothing_else(name: str) -> None:
    recipe = read_recipe(name, ["seeds=[0, 7]"])
    drawn, before = recipe.for_seed(7).model_dump(mode="json"), recipe.model_dump(mode="json")
    for part in ("student", "stages"):
        assert set(seeds_in(drawn[part])) <= {7}
        assert len([*seeds_in(drawn[part])]) == len([*seeds_in(before[part])])
    changed = {key for key in before if drawn[key] != before[key]}
    assert changed <= {"student", "stages", "seeds"}
    assert recipe.for_seed(7).stages[0].training.seed == 7
    assert teacher_configs(recipe.for_seed(7)) == teacher_configs(recipe)


def test_the_seed_of_the_recipe_makes_the_stages_of_the_recipe() -> None:
    recipe = read_recipe("quickstart")
    listed = read_recipe("quickstart", ["seeds=[0]"])
    assert listed.for_seed(0).model_dump() == recipe.model_dump()


def test_tasks_and_seeds_multiply_and_seeds_share_what_tasks_share() -> None:
    recipe = read_recipe("ernie-tiny", ["tasks=[sst2, mrpc]", "seeds=[3, 4]"])
    names = [variant.name for variant in recipe.variants()]
    assert names == ["sst2-seed3", "sst2-seed4", "mrpc-seed3", "mrpc-seed4"]
    assert recipe.shared_variants() == (Variant(None, 3), Variant(None, 4))
    single = recipe.for_variant(Variant("mrpc", 4))
    assert (single.tasks, single.seeds, single.stages[0].training.seed) == (None, (), 4)
    assert read_recipe("quickstart").variants() == (Variant(),)
    assert read_recipe("quickstart", ["seeds=[1]"]).shared_variants() == ()


def test_seeds_are_a_list_without_repetition() -> None:
    with pytest.raises(ConfigError, match=r"--set seeds=3: seeds: 3 is not allowed; expected a list"):
        read_recipe("quickstart", ["seeds=3"])
    with pytest.raises(ConfigError, match=r"--set seeds=\[1,2,1\]: seeds: 1 is listed twice; list each seed once"):
        read_recipe("quickstart", ["seeds=[1,2,1]"])
    with pytest.raises(ConfigError, match="65 seeds, and at most 64 are allowed"):
        read_recipe("quickstart", [f"seeds={[*range(65)]}"])


def test_recipes_of_a_call_are_refused_together(tmp_path: Path) -> None:
    broken, copied = tmp_path / "broken.yaml", tmp_path / "copied.yaml"
    broken.write_text("name: broken\nteacher: 3\n", "utf-8")
    shipped = RECIPES / "quickstart.yaml"
    copied.write_text(shipped.read_text("utf-8"), "utf-8")
    with pytest.raises(ConfigError) as refused:
        read_recipes(["quickstart", str(broken), str(copied), "quickstart"], ["task.max_length=wide"])
    with pytest.raises(ConfigError) as namesakes:
        read_recipes(["quickstart", str(copied), "quickstart"])
    assert namesakes.value.problems == (
        f"quickstart and {copied} both have the name quickstart; give one of them another `name`",
        "quickstart is listed twice; to run it several times, list seeds: --set seeds=[0,1,2]",
    )
    assert any(line.startswith(f"{broken}:2: teacher") for line in refused.value.problems)
    assert any("task.max_length" in line for line in refused.value.problems)
    with pytest.raises(ConfigError, match="no recipe is named"):
        read_recipes([])
