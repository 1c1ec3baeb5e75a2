"""A recipe: a teacher, a student, a task, a general corpus and a list of stages that fit together."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple, TypeVar

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.core.base import Frozen
from schemas.core.errors import ConfigError
from schemas.core.refs import AnyModel, StudentOf
from schemas.recipe.checks import recipe_problems
from schemas.recipe.objective import LatentObjective
from schemas.recipe.parts import RecipeParts, TeacherShape
from schemas.recipe.student import RecipeShape

Part = TypeVar("Part", bound=Frozen)


class Variant(NamedTuple):
    """Task and seed of one of several runs of a recipe; without both, the only run."""

    task: str | None = None
    """Name of the task among several; None where there is one, and for what all tasks share."""
    seed: int | None = None
    """Seed among several; None where the recipe lists none."""

    @property
    def name(self) -> str | None:
        """Name in messages and of reports, such as `mrpc-seed0`; None for the only run."""
        seed = None if self.seed is None else f"seed{self.seed}"
        return "-".join(filter(None, (self.task, seed))) or None


ONLY_RUN = Variant()


class Recipe(RecipeParts):
    """A progressive distillation from start to end."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = list(recipe_problems(self))
        if problems:
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("recipe", "{reason}", {"reason": reason}), loc=loc, input=value
                    )
                    for loc, value, reason in problems
                ],
            )
        return self

    def latent_objective(self) -> LatentObjective | None:
        """Return the objective of the common latent loss: that of the first stage that has one."""
        return next((latent for stage in self.stages if (latent := stage.objective.latent)), None)

    @property
    def pretrained(self) -> AnyModel:
        """The pretrained teacher; another recipe's student must have been resolved before."""
        model = self.teacher.model
        assert not isinstance(model, StudentOf), "resolve the assistant's recipe first"
        return model

    def with_pretrained(self, model: AnyModel) -> Recipe:
        """Return the recipe with another pretrained teacher."""
        teacher = self.teacher.model_copy(update={"model": model})
        return self.model_copy(update={"teacher": teacher})

    def with_sizes_of(self, teacher: TeacherShape) -> Recipe:
        """Return the recipe with the teacher's size wherever the student's is not given.

        Raises:
            ConfigError: the teacher's sizes do not fit the given ones.
        """
        missing = {name: getattr(teacher, name) for name in self.student.missing_sizes}
        try:
            shape = RecipeShape(**{**dict(self.student.shape), **missing})
        except ValidationError as error:
            reason = error.errors()[0]["ctx"]["error"]
            sizes = ", ".join(f"{name} {size}" for name, size in missing.items())
            raise ConfigError(f"recipe {self.name}: student.shape: with the teacher's {sizes}, {reason}") from None
        return self.model_copy(update={"student": self.student.model_copy(update={"shape": shape})})

    def variants(self) -> tuple[Variant, ...]:
        """Return the runs that the recipe stands for: one for each of its tasks and seeds, those of a task together."""
        return tuple(Variant(task, seed) for task, seed in product(self.tasks or [None], self.seeds or [None]))

    def shared_variants(self) -> tuple[Variant, ...]:
        """Return what several tasks share, once for each seed; empty without several tasks."""
        return tuple(Variant(None, seed) for seed in self.seeds or [None]) if self.tasks is not None else ()

    def for_variant(self, variant: Variant) -> Recipe:
        """Return the recipe of one of its runs."""
        seeded = self if variant.seed is None else self.for_seed(variant.seed)
        return seeded if variant.task is None else seeded.for_task(variant.task)

    def for_seed(self, seed: int) -> Recipe:
        """Return the recipe with one seed for the student and all of its stages."""
        stages = tuple(_reseeded(stage, seed) for stage in self.stages)
        return self.model_copy(update={"seeds": (), "student": _reseeded(self.student, seed), "stages": stages})

    def for_task(self, name: str) -> Recipe:
        """Return the recipe of one of several tasks, with the stages of a run on that task alone."""
        assert self.tasks is not None
        return self.model_copy(update={"task": self.tasks[name], "tasks": None})

    def without_tasks(self) -> Recipe:
        """Return the recipe of what several tasks share: general stages, and no teacher fine-tuned on one task."""
        others = tuple(other.model_copy(update={"task_model": None}) for other in self.teacher.others)
        teacher = self.teacher.model_copy(update={"task_model": None, "others": others})
        general = {"teacher": teacher, "task": None, "tasks": None, "baselines": ()}
        return self.model_copy(update={**general, "stages": self.shared_stages()})


def _reseeded(part: Part, seed: int) -> Part:
    """Return a part of a recipe with that seed wherever it has one."""
    changes: dict[str, object] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if name == "seed":
            changes[name] = seed
        elif isinstance(value, Frozen):
            changes[name] = _reseeded(value, seed)
        elif isinstance(value, tuple):
            changes[name] = tuple(_reseeded(item, seed) if isinstance(item, Frozen) else item for item in value)
    return part.model_copy(update=changes)
