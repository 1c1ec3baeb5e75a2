"""The parts that a run will have, each with the operations of its training, from which the time left is estimated.

A run without any training is known before it begins (`is_trained`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.planning.assistants import assistant_of
from pipeline.planning.options import RunOptions, chosen_stages
from pipeline.planning.outline import OutlinedStage, outline_variants, with_finished_assistant
from pipeline.planning.room import StageRoom, room_of
from pipeline.store.checkpoints import CheckpointStore
from schemas.recipe.expand import baseline_config
from schemas.recipe.recipe import Recipe, Variant
from schemas.recipe.stage import StageConfig
from stages.device.launch import number_of_all_processes
from stages.identity import stage_digest
from stages.preflight.checks import PreflightResult
from stages.preflight.cost import Cost, cost_of


def expected_parts(
    recipe: Recipe,
    outlined: Sequence[tuple[Variant, OutlinedStage]],
    facts: Mapping[str | None, PreflightResult],
    store: CheckpointStore,
    *,
    has_baselines: bool,
) -> dict[str, float | None]:
    """Return the names of a run's parts in order, with the operations of their training: 0 without one, or if reused.

    Args:
        recipe: the recipe.
        outlined: its stages, each with its task and seed where there are several.
        facts: results of `preflight` by task.
        store: the store.
        has_baselines: False without the recipe's baselines.

    Raises:
        ConfigError: as `cost_of`.
        StoreError: the disk does not have room for the checkpoints and states of the run.
    """
    work = _Work(recipe, facts, store)
    parts: dict[str, float | None] = {}
    for variant in dict.fromkeys([*recipe.shared_variants(), *recipe.variants()]):
        prefix = f"{variant.name}/" if variant.name else ""
        stages = _stages_of(outlined, variant)
        single, task = recipe.for_variant(variant), variant.task
        has_task = recipe.tasks is None or task is not None
        if has_task and single.task is not None and not any(stage.config.student is None for stage in stages):
            parts[f"{prefix}teacher"] = 0.0
        for stage in stages:
            parts[prefix + stage.title] = 0.0 if stage.is_shared else work.of_stage(stage, task)
        if not has_task:
            continue
        if has_baselines and "hard_labels" in recipe.baselines:
            every = _stages_of(outlined, variant, Variant(None, variant.seed))
            parts[f"{prefix}hard_label_baseline"] = work.of_baseline(single, every, task)
        if has_baselines and "bag_of_words" in recipe.baselines:
            parts[f"{prefix}bag_of_words"] = 0.0
        parts[f"{prefix}shipping"] = 0.0
    room_of(map(StageRoom.of, work.of_stages), store.root)
    return parts


def is_trained(recipe: Recipe, options: RunOptions, store: CheckpointStore) -> bool:
    """Return whether the store has every model that a run would train.

    Args:
        recipe: the recipe.
        options: the part of it to run; False with a checkpoint to resume from, which is not opened here.
        store: the store.
    """
    other = assistant_of(recipe)
    if options.resume_from or (other is not None and not is_trained(other, RunOptions(), store)):
        return False
    ready = with_finished_assistant(recipe, store)
    if ready is None:
        return False
    outlined = outline_variants(ready, chosen_stages(ready, options.from_stage, options.until_stage), store)
    if not all(store.find(stage.config.name, stage.digest) for _, stage in outlined):
        return False
    if options.until_stage or "hard_labels" not in ready.baselines:
        return True
    baselines = [
        _baseline(
            ready.for_variant(variant),
            _stages_of(outlined, variant, Variant(None, variant.seed)),
            store,
            lambda _: 0,
        )
        for variant in ready.variants()
    ]
    return all(store.find(config.name, stage_digest(config, None)) for config in baselines)


def _stages_of(outlined: Sequence[tuple[Variant, OutlinedStage]], *variants: Variant) -> list[OutlinedStage]:
    return [stage for variant, stage in outlined if variant in variants]


def _baseline(
    recipe: Recipe, stages: Sequence[OutlinedStage], store: CheckpointStore, estimate: Callable[[OutlinedStage], int]
) -> StageConfig:
    """The baseline of hard labels alone, for as many tokens as all stages; those to come are estimated."""
    tokens = 0
    for stage in stages:
        if stage.config.student is not None:
            match = store.find(stage.config.name, stage.digest)
            tokens += match[1].tokens if match else estimate(stage)
    return baseline_config(recipe, tokens=tokens)


class _Work:
    """Operations of trainings that are not in the store, each computed once."""

    def __init__(self, recipe: Recipe, facts: Mapping[str | None, PreflightResult], store: CheckpointStore) -> None:
        self.execution, self.facts, self.store = recipe.execution, facts, store
        self.of_stages: list[Cost] = []
        """Costs of the stages asked for that are to be trained, in order."""
        self._costs: dict[str, Cost] = {}

    def of_stage(self, stage: OutlinedStage, task: str | None) -> float:
        """Operations of a stage."""
        if operations := self.of(stage.config, stage.digest, task):
            self.of_stages.append(self._cost(stage.config, stage.digest, task))
        return operations

    def of(self, config: StageConfig, digest: str, task: str | None) -> float:
        return 0.0 if self.store.find(config.name, digest) else self._cost(config, digest, task).flops

    def of_baseline(self, recipe: Recipe, stages: Sequence[OutlinedStage], task: str | None) -> float | None:
        """Operations of the baseline."""
        config = _baseline(
            recipe, stages, self.store, lambda stage: self._cost(stage.config, stage.digest, task).tokens
        )
        return self.of(config, stage_digest(config, None), task)

    def _cost(self, config: StageConfig, digest: str, task: str | None) -> Cost:
        if digest not in self._costs:
            facts = self.facts.get(task) or next(iter(self.facts.values()))
            self._costs[digest] = cost_of(
                config,
                facts,
                self.store.cache,
                1.0,
                room=self.execution.teacher_cache_gigabytes * 1e9,
                microbatch_tokens=self.execution.microbatch_tokens,
                processes=number_of_all_processes(self.execution.launch),
                shards_teacher=self.execution.launch.teacher == "sharded",
            )
        return self._costs[digest]
