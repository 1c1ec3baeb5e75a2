"""The teachers of a training run: run in every step, or once into a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from stages.data.batching.batches import Batches
from stages.data.batching.tokens import Batch, Tokens
from stages.device.runtime import Runtime
from stages.device.sharding import divide
from stages.objective.objective import ObjectiveTerms
from stages.objective.terms import Needs, Outputs, Target, run_model
from stages.ports.protocols import Ports
from stages.training.coupling import Coupling
from stages.training.teacher_cache import TeacherCache, filled_caches, pays
from stages.training.truncate import shorten


class Teachers:
    """Frozen teachers, cut to the blocks that the objective reads."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        objective: ObjectiveTerms,
        tokens: Tokens,
        runtime: Runtime,
        *,
        int8: bool = False,
        shards: bool = False,
    ) -> None:
        """Copy the models.

        Args:
            models: the teachers.
            objective: decides what is read of them.
            tokens: the rows of the stage.
            runtime: device and number format.
            int8: compute in 8-bit integers.
            shards: divide the copies among the processes of the group.

        Raises:
            ConfigError: a model cannot compute in 8-bit integers, or cannot be divided.
        """
        self.models = [runtime.frozen(model, int8=int8, on_cpu=shards) for model in models]
        self.are_divided = shards
        self.caches: list[TeacherCache] = []
        """One per teacher once `fill_caches` has decided for it; empty while the models run in every step."""
        self._objective, self._tokens, self._runtime = objective, tokens, runtime
        if not objective.redrawn:  # another epoch's map may read any block
            sample = tokens.batch(np.arange(min(2, len(tokens)))).to("cpu" if shards else runtime.device)
            with runtime.autocast():
                for index, model in enumerate(self.models):
                    shorten(model, objective.teacher_needs(index), sample)
        if shards:
            self.models = [divide(model, runtime.device) for model in self.models]

    def fill_caches(self, batches: Batches, num_steps: int, ports: Ports, description: str) -> None:
        """Cache what the teachers compute for every row if a stage of `num_steps` reads it more than once.

        Raises:
            Interrupted: a stop was requested; the rows computed so far stay on disk.
        """
        if self.are_divided:  # processes would compute different numbers of rows
            return
        if pays(batches, num_steps):
            self.caches = filled_caches(
                self.models, self._tokens, self._objective, self._run, ports, description=description
            )

    def _run(self, model: nn.Module, batch: Batch, needs: Needs) -> Outputs:
        with torch.no_grad(), self._runtime.autocast():
            return run_model(model, batch, needs)

    def target(self, batch: Batch, coupling: Coupling | None = None) -> Target | None:
        """Return the teachers' outputs for a microbatch; None if no term reads them.

        Args:
            batch: the microbatch.
            coupling: the step whose part `batch` is, if its rows are compared; the outputs then are of all its rows.
        """
        whole = batch if coupling is None else coupling.whole
        if self.caches:
            return self._objective.target_of(tuple(cache.read(whole) for cache in self.caches), whole)
        with self._runtime.autocast():
            outputs = self._objective.teacher_outputs(self.models, batch)
            if outputs is None:
                return None
            if coupling is not None:
                outputs = tuple(map(coupling.gathered, outputs))
            return self._objective.target_of(outputs, whole)

    def keep_pace(self, passes: int, most: int) -> None:
        """Run divided teachers on a row for each pass that another process has more; nothing is kept of it.

        Args:
            passes: passes of this process.
            most: passes of the process that has the most.
        """
        for _ in range(passes, most) if self.are_divided else ():
            self.target(self._tokens.batch(np.arange(1)).to(self._runtime.device))

    def remove_caches(self) -> None:
        """Delete the caches from disk."""
        for cache in self.caches:
            cache.remove()
