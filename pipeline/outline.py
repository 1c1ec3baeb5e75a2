"""The stages of a run before any of them is run: what each is, what it goes on from, and whether it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.assistants import assistant_of
from pipeline.checkpoints import CheckpointStore
from schemas.errors import ConfigError
from schemas.recipe import Recipe
from schemas.refs import FolderModel
from schemas.stage import Stage, StageConfig
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
        store: where the teachers' checkpoints would be; nothing is looked up in it.
        parent: digest of the checkpoint that the first of them goes on from; None for a fresh start.
    """
    outlined = []
    made = []
    for config in recipe.teacher_configs() if needs_made_teachers(stages) else ():
        digest = stage_digest(config, None)
        outlined.append(OutlinedStage(config, None, digest))
        made.append((config, str(store.folder(config.name, digest) / "model"), digest))
    teachers = recipe.fine_tuned_teachers(made)
    for stage in stages:
        config = recipe.stage_config(stage, teachers)
        digest = stage_digest(config, parent)
        outlined.append(OutlinedStage(config, parent, digest))
        parent = digest
    return tuple(outlined)


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


def check_earlier_stages(
    recipe: Recipe, stages: Sequence[Stage], from_stage: str, store: CheckpointStore
) -> None:
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
        stage.config.name
        for stage in outline(ready, stages, store)
        if stage.config.student is not None and store.find(stage.config.name, stage.digest) is None
    ]
