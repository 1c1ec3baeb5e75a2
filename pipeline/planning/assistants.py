"""Teacher assistants: a recipe whose teacher is the student of another recipe, which is run first.

A large step from teacher to student is easier in two (Mirzadeh et al. 2020; MiniLM, section 3.4). The other recipe is
an ordinary run in the same store, so it is paid for once, by whoever needs it first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.recipes.shipped import read_recipe
from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel, StudentOf
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import CheckpointRef


def assistant_of(recipe: Recipe) -> Recipe | None:
    """The recipe whose student is this one's teacher; None for a teacher that is there.

    Raises:
        ConfigError: it cannot be read, or a recipe is, through others, its own teacher's recipe.
    """
    if not isinstance(recipe.teacher.model, StudentOf):
        return None
    first = other = _read(recipe.teacher.model)
    names = [recipe.name]
    while True:
        if other.name in names:
            chain = " <- ".join([*names, other.name])
            raise ConfigError(
                f"recipe {recipe.name}: teacher.model: {chain}: a recipe cannot learn from its own student; name "
                "another recipe, or a model"
            )
        names.append(other.name)
        if not isinstance(other.teacher.model, StudentOf):
            return first
        other = _read(other.teacher.model)


def _read(student: StudentOf) -> Recipe:
    recipe = read_recipe(student.recipe, student.overrides)
    if recipe.tasks is not None:
        raise ConfigError(
            f"teacher.model: recipe {recipe.name} has several tasks ({', '.join(recipe.tasks)}) and so no one student; "
            "name one of them: teacher.model.overrides=[task=NAME]"
        )
    return recipe


def with_assistant(recipe: Recipe, finish: Callable[[StudentOf], CheckpointRef]) -> Recipe:
    """The recipe with a teacher that is there.

    Args:
        recipe: the recipe.
        finish: runs another recipe to its end and gives its student.
    """
    if assistant_of(recipe) is None:
        return recipe
    assert isinstance(recipe.teacher.model, StudentOf)
    checkpoint = finish(recipe.teacher.model)
    return recipe.with_pretrained(FolderModel(path=str(Path(checkpoint.path) / "model")))
