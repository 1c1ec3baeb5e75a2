"""Sizes that a short recipe leaves to the teacher: known before digests are computed, and equal to numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.planning.assistants import with_assistant
from pipeline.planning.outline import outline, with_finished_assistant
from pipeline.store.checkpoints import open_store
from schemas.core.errors import ConfigError, DataError
from schemas.core.refs import FolderModel
from schemas.recipe.recipe import Recipe
from tests.support.toys import toy_recipe_dict

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def test_a_short_recipe_has_the_digests_of_its_long_form(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in")
    long = content | {"student": {"shape": {"num_layers": 2, **SIZES}, "start": {"kind": "teacher_layers"}}}
    short = content | {"student": {"shape": {"num_layers": 2}, "start": "teacher_layers"}}
    del short["description"]
    store = open_store(tmp_path / "store")
    digests = []
    for mapping in (long, short):
        recipe = with_finished_assistant(Recipe.model_validate(mapping), store)
        assert recipe is not None
        assert recipe.sized_student.shape.model_dump() == {"num_layers": 2, **SIZES}
        assert with_assistant(Recipe.model_validate(mapping), lambda _: pytest.fail("no assistant")) == recipe
        digests.append([stage.digest for stage in outline(recipe, recipe.stages, store)])
    assert digests[0] == digests[1]


def test_sizes_that_do_not_fit_or_cannot_be_read_are_refused(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in")
    student = {"shape": {"num_layers": 2, "hidden_size": 17}, "start": "teacher_layers"}
    recipe = Recipe.model_validate(content | {"student": student})
    with pytest.raises(
        ConfigError, match=r"student\.shape: with the teacher's num_attention_heads 2.*2 attention heads do"
    ):
        with_assistant(recipe, lambda _: pytest.fail("no assistant"))
    absent = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"model": FolderModel(path=str(tmp_path / "no"))})}
    )
    with pytest.raises(DataError, match="is not a folder"):
        with_assistant(absent, lambda _: pytest.fail("no assistant"))
