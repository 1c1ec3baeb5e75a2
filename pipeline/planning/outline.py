"""The outline of a run: its stages, their parents and their digests, before any of them is run."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.planning.assistants import assistant_of
from pipeline.planning.candidates import candidate_of, expected_teacher
from pipeline.store.checkpoints import CheckpointStore
from schemas.core.errors import ConfigError
from schemas.core.refs import FolderModel
from schemas.recipe.expand import stage_config, task_teachers, teacher_candidates
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import Stage, StageConfig
from schemas.recipe.teacher import FinetunedTeacher, members_of
from stages.identity import stage_digest
from stages.models.student import with_known_sizes


@dataclass(frozen=True)
class OutlinedStage:
    """A stage that is identified before it is run."""

    config: StageConfig
    """The stage in full."""
    parent: str | None
    """Digest of the stage that it continues; None for a fresh start."""
    digest: str
    """The stage's digest."""
    candidate: str | None = None
    """Settings that tell a teacher's candidate from the others; None without candidates."""
    is_known: bool = True
    """False if its teacher is still to be chosen: its digest will then change."""
    is_shared: bool = False
    """True if an earlier run of the same recipe makes it: a teacher of several seeds."""

    @property
    def title(self) -> str:
        """Name in messages."""
        return f"{self.config.name} ({self.candidate})" if self.candidate else self.config.name


def needs_made_teachers(stages: Sequence[Stage]) -> bool:
    """True if any of the stages learns from a fine-tuned teacher."""
    return any(stage.teacher != "pretrained" for stage in stages)


def outline(
    recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore, parent: str | None = None
) -> tuple[OutlinedStage, ...]:
    """Outline the fine-tunings of teachers that the stages need, then the stages, each on the one before.

    Args:
        recipe: the recipe.
        stages: the stages to run, in order.
        store: the store, which is searched only for finished candidates of a teacher.
        parent: digest of the checkpoint that the first stage continues; None for a fresh start.
    """
    outlined = []
    made: dict[str, FinetunedTeacher] = {}
    unknown: set[str | None] = set()
    groups = teacher_candidates(recipe) if needs_made_teachers(stages) else {}
    for path, group in groups.items():
        candidates = [(config, stage_digest(config, None)) for config in group]
        outlined += [OutlinedStage(config, None, digest, candidate_of(config, group)) for config, digest in candidates]
        made[path], is_known = expected_teacher(candidates, store)
        unknown |= set() if is_known else {made[path].stage_digest}
    teachers = task_teachers(recipe, made)
    for stage in stages:
        config = stage_config(recipe, stage, teachers)
        digest = stage_digest(config, parent)
        learns_from = {getattr(member, "stage_digest", None) for member in members_of(config.teacher)}
        is_known = not unknown & {parent, *learns_from}
        outlined.append(OutlinedStage(config, parent, digest, is_known=is_known))
        unknown |= set() if is_known else {digest}
        parent = digest
    return tuple(outlined)


def outline_variants(
    recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore, parent: str | None = None
) -> tuple[tuple[Variant, OutlinedStage], ...]:
    """Outline a recipe that may have several tasks and seeds, each stage with its task and seed.

    Stages that several tasks share come first, without a task, as do all stages of a recipe without several tasks.
    """
    names = {stage.name for stage in stages}
    lines: list[tuple[Variant, OutlinedStage]] = []
    for shared in recipe.shared_variants():
        general = recipe.for_variant(shared).without_tasks()
        lines += [(shared, stage) for stage in outline(general, _named(general, names), store, parent)]
    general_digests = {stage.digest for _, stage in lines}
    known: set[str] = set()
    for variant in recipe.variants():
        single = recipe.for_variant(variant)
        for stage in outline(single, _named(single, names), store, parent):
            if stage.digest not in general_digests:
                lines.append((variant, replace(stage, is_shared=stage.digest in known)))
                known.add(stage.digest)
    return tuple(lines)


def _named(recipe: Recipe, names: Container[str]) -> list[Stage]:
    return [stage for stage in recipe.stages if stage.name in names]


def with_finished_assistant(recipe: Recipe, store: CheckpointStore) -> Recipe | None:
    """Return the recipe with an available teacher, and with the student's sizes.

    None if the teacher is a student that the store does not have.
    """
    if (other := assistant_of(recipe)) is None:
        return with_known_sizes(recipe)
    if (ready := with_finished_assistant(other, store)) is None:
        return None
    last = outline(ready, ready.stages, store)[-1]
    checkpoint = store.find(last.config.name, last.digest)
    if checkpoint is None:
        return None
    return with_known_sizes(recipe.with_pretrained(FolderModel(path=str(Path(checkpoint[0].path) / "model"))))


def check_earlier_stages(recipe: Recipe, stages: Sequence[Stage], from_stage: str, store: CheckpointStore) -> None:
    """Check that the store has every stage before `from_stage`, before anything is trained.

    Raises:
        ConfigError: a stage is missing; the message names each, the store and what to do.
        CheckpointError: a checkpoint is damaged.
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
            "checkpoint to continue with --resume-from"
        )


def _missing(recipe: Recipe, stages: Sequence[Stage], store: CheckpointStore) -> list[str]:
    ready = with_finished_assistant(recipe, store) if stages else None
    if ready is None:
        return [stage.name for stage in stages]
    return [
        f"{variant.name}/{stage.config.name}" if variant.name else stage.config.name
        for variant, stage in outline_variants(ready, stages, store)
        if stage.config.student is not None and store.find(stage.config.name, stage.digest) is None
    ]
