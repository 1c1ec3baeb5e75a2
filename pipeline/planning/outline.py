"""The stages of a run before any of them is run: what each is, what it goes on from, and whether it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.planning.assistants import assistant_of
from pipeline.planning.teacher_choice import candidate_of, foreseen
from pipeline.store.checkpoints import CheckpointStore
from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel
from schemas.recipe.expand import stage_config, task_teachers, teacher_candidates
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import Stage, StageConfig
from schemas.recipe.teacher import FinetunedTeacher, members_of
from stages.identity import stage_digest


@dataclass(frozen=True)
class OutlinedStage:
    """A stage, known by its digest before it is run."""

    config: StageConfig
    """What is run."""
    parent: str | None
    """Digest of the stage it goes on from; None for a fresh start."""
    digest: str
    """Its own."""
    candidate: str | None = None
    """What tells a teacher from the others that are tried in its place; None where none are."""
    is_known: bool = True
    """False for what learns from a teacher that is still to be chosen: its digest is then another in the end."""

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.config.name} ({self.candidate})" if self.candidate else self.config.name


def needs_made_teachers(stages: Sequence[Stage]) -> bool:
    """Whether any of the stages learns from a teacher that is fine-tuned first."""
    return any(stage.teacher != "pretrained" for stage in stages)


def outline(
    recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore, parent: str | None = None
) -> tuple[OutlinedStage, ...]:
    """The fine-tunings of teachers that the stages need, then the stages, each on the one before.

    Args:
        recipe: the recipe.
        stages: its stages that are to run, from the first on.
        store: where the teachers' checkpoints would be; looked into only for the best of a teacher's candidates.
        parent: digest of the checkpoint that the first of them goes on from; None for a fresh start.
    """
    outlined = []
    made: dict[str, FinetunedTeacher] = {}
    unknown: set[str | None] = set()
    groups = teacher_candidates(recipe) if needs_made_teachers(stages) else {}
    for path, group in groups.items():
        candidates = [(config, stage_digest(config, None)) for config in group]
        outlined += [OutlinedStage(config, None, digest, candidate_of(config, group)) for config, digest in candidates]
        made[path], is_known = foreseen(candidates, store)
        unknown |= set() if is_known else {made[path].stage_digest}
    teachers = task_teachers(recipe, made)
    for stage in stages:
        config = stage_config(recipe, stage, teachers)
        digest = stage_digest(config, parent)
        learns_from = {getattr(each, "stage_digest", None) for each in members_of(config.teacher)}
        is_known = not unknown & {parent, *learns_from}
        outlined.append(OutlinedStage(config, parent, digest, is_known=is_known))
        unknown |= set() if is_known else {digest}
        parent = digest
    return tuple(outlined)


def outline_tasks(
    recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore, parent: str | None = None
) -> tuple[tuple[str | None, OutlinedStage], ...]:
    """The outline of a recipe that may have several tasks, each stage with the task that it is for.

    What several tasks share stands first, once, under None; so does everything of a recipe with one task, or none.
    """
    if recipe.tasks is None:
        return tuple((None, stage) for stage in outline(recipe, stages, store, parent))
    general = recipe.without_tasks()
    shared = [stage for stage in stages if stage in general.stages]
    lines: list[tuple[str | None, OutlinedStage]] = [(None, stage) for stage in outline(general, shared, store, parent)]
    known = {stage.digest for _, stage in lines}
    for name in recipe.tasks:
        own = outline(recipe.for_task(name), stages, store, parent)
        lines += [(name, stage) for stage in own if stage.digest not in known]
    return tuple(lines)


def with_student_there(recipe: Recipe, store: CheckpointStore) -> Recipe | None:
    """The recipe with a teacher that is there; None where that is another recipe's student not yet in the store."""
    if (other := assistant_of(recipe)) is None:
        return recipe
    if (ready := with_student_there(other, store)) is None:
        return None
    last = outline(ready, ready.stages, store)[-1]
    found = store.find(last.config.name, last.digest)
    if found is None:
        return None
    return recipe.with_pretrained(FolderModel(path=str(Path(found[0].path) / "model")))


def check_earlier_stages(recipe: Recipe, stages: Sequence[Stage], from_stage: str, store: CheckpointStore) -> None:
    """Make sure that everything before `from_stage` is in the store, before anything is trained for it.

    Raises:
        ConfigError: a stage is missing; the message names each, the store and what to do.
        CheckpointError: one is there but damaged.
    """
    names: list[str] = [stage.name for stage in stages]
    earlier = stages[: names.index(from_stage)]
    missing = _missing(recipe, earlier, store)
    if missing:
        several = len(missing) > 1
        raise ConfigError(
            f"--from {from_stage}: {'stages' if several else 'stage'} {', '.join(missing)} of this recipe, which "
            f"{'come' if several else 'comes'} before it, {'are' if several else 'is'} not in the store {store.root}; "
            "run without --from to make what is missing, name the store that has it with --store, or give a "
            "checkpoint to go on from with --resume-from"
        )


def _missing(recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore) -> list[str]:
    ready = with_student_there(recipe, store) if stages else None
    if ready is None:
        return [stage.name for stage in stages]
    return [
        f"{task}/{stage.config.name}" if task else stage.config.name
        for task, stage in outline_tasks(ready, stages, store)
        if stage.config.student is not None and store.find(stage.config.name, stage.digest) is None
    ]
