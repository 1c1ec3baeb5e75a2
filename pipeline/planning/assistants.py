"""Teacher assistants: recipes whose teacher is the student of another recipe, which is run first.

A large gap between teacher and student is easier to bridge in two steps (Mirzadeh et al. 2020; MiniLM, section 3.4).
The other recipe is an ordinary run in the same store, so its cost is paid once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.recipes.shipped import read_recipe
from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel, StudentOf
from schemas.recipe.recipe import Recipe
from schemas.results.manifest import CheckpointRef
from stages.models.student import with_known_sizes


def assistant_of(recipe: Recipe) -> Recipe | None:
    """Return the recipe whose student is this recipe's teacher; None if the teacher is a model.

    Raises:
        ConfigError: it cannot be read, or it leads back to this recipe.
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
    if recipe.seeds:
        raise ConfigError(
            f"teacher.model: recipe {recipe.name} has the seeds {', '.join(map(str, recipe.seeds))} and so has "
            "several students; leave the list empty: teacher.model.overrides=['seeds=[]']"
        )
    if recipe.tasks is not None:
        raise ConfigError(
            f"teacher.model: recipe {recipe.name} has several tasks ({', '.join(recipe.tasks)}) and therefore several "
            "students; name one task: teacher.model.overrides=[task=NAME]"
        )
    return recipe


def with_assistant(recipe: Recipe, finish: Callable[[StudentOf], CheckpointRef]) -> Recipe:
    """Return the recipe with its assistant's finished student as the teacher, and with the student's sizes.

    Args:
        recipe: the recipe.
        finish: runs another recipe to its end and returns its student.
    """
    if assistant_of(recipe) is None:
        return with_known_sizes(recipe)
    assert isinstance(recipe.teacher.model, StudentOf)
    checkpoint = finish(recipe.teacher.model)
    return with_known_sizes(recipe.with_pretrained(FolderModel(path=str(Path(checkpoint.path) / "model"))))
