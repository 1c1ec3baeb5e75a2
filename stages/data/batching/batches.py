"""Rows of every optimizer step: a pure function of lengths, batch size, seed and stage.

Any step can be asked for by its number, so a resumed stage needs no saved iterator, and the budget
of a microbatch (what the hardware holds) never decides which rows a step has (what is learnt).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schemas.core.errors import ConfigError
from schemas.core.training import BatchSize, Duration, Training
from stages.data.batching.choice_groups import Groups, Rows
from stages.data.batching.mixture import Mixture
from stages.data.batching.seeds import stage_seed
from stages.data.batching.tokens import Tokens

# Rows are sorted by length inside a pool of so many steps: little padding, and still a new mix in
# every epoch.
POOL_STEPS = 64
# About the largest share of a row's companions in a step that are its companions in the next epoch as well, if the
# epoch has several times as many steps.
RETURNING = 0.1
# Plans kept at a time: the current epoch's, and the one that a look back or ahead asks for.
PLANS_KEPT = 2


@dataclass(frozen=True)
class _Epoch:
    order: Rows
    bounds: Rows
    """Step `i` has the rows `order[bounds[i]:bounds[i + 1]]`."""
    tokens: Rows
    """Real tokens of each step."""


class Batches:
    """Endless optimizer steps of a stage: epoch after epoch, each in an order of its own.

    A row is a sequence, or all choices of a question, which are never divided between steps or microbatches.

    Args:
        lengths: (sequences,) tokens of each, padding excluded.
        batch: size of an optimizer step; its `sequences` are rows.
        microbatch_tokens: padded tokens of the largest forward pass; a longer row is a pass of its own.
        seed: decides the order; of a stage, `stage_seed`.
        mixture: shares of several sources; None takes each row once in an epoch.
        choice_of: (sequences,) the row that each is a choice of; None where every sequence is a row.
    """

    def __init__(
        self,
        lengths: NDArray[np.int32],
        batch: BatchSize,
        microbatch_tokens: int,
        seed: int,
        mixture: Mixture | None = None,
        choice_of: NDArray[np.int64] | None = None,
    ) -> None:
        if len(lengths) == 0:
            raise ValueError("there are no rows to make batches of")
        self._groups = Groups(lengths, choice_of)
        self._lengths = self._groups.tokens
        self._mixture = mixture
        self._of_sources = mixture.rows_in_epoch(self._lengths) if mixture else None
        self._batch = batch
        self.microbatch_tokens = microbatch_tokens
        """May be changed at any time: the rows of a step do not depend on it."""
        self._seed = seed
        # First step of each known epoch; grows when later steps are requested.
        self._first_steps = [0]
        self._plan = lru_cache(maxsize=PLANS_KEPT)(self._make_plan)

    @classmethod
    def of_stage(
        cls, tokens: Tokens, training: Training, stage: str, *, microbatch_tokens: int, copies: int = 1
    ) -> Batches:
        """Return the steps of a stage.

        Args:
            tokens: its sequences.
            training: its settings.
            stage: its name; stages that differ in it alone read their rows in different orders.
            microbatch_tokens: padded tokens of the largest forward pass.
            copies: sequences that each one stands for, where augmented copies of the same length are yet to be made.
        """
        return cls(
            np.tile(tokens.lengths, copies),
            training.batch,
            microbatch_tokens,
            stage_seed(training.seed, stage),
            tokens.mixture,
            tokens.choice_of,
        )

    @property
    def rows_in_epoch(self) -> int:
        """Rows of an epoch; rows of a mixture are counted as often as they occur."""
        return len(self._lengths) if self._of_sources is None else int(self._of_sources.sum())

    @property
    def epochs_differ(self) -> bool:
        """True if epochs differ in how often they have a row, as those of a mixture do."""
        return self._mixture is not None

    def sequences_in_epoch(self, epoch: int) -> Rows:
        """Return the numbers of all sequences of `epoch`, counted from 0, as often as they occur."""
        return self._groups.sequences(self._plan(epoch).order)

    def passes_in_epoch(self, epoch: int) -> Iterator[Rows]:
        """Yield the microbatches of all steps of `epoch`, counted from 0."""
        first = self._first_step(epoch)
        for step in range(first, first + self.steps_in_epoch(epoch)):
            yield from self.step(step)

    def tokens_in_epoch(self, epoch: int) -> int:
        """Return the real tokens of `epoch`, counted from 0; epochs of a mixture can differ by a few rows."""
        if self._mixture is None:
            return int(self._lengths.sum())
        return int(self._plan(epoch).tokens.sum())

    def steps_in_epoch(self, epoch: int) -> int:
        """Return the optimizer steps of `epoch`, counted from 0; with batches by tokens, epochs can differ by a few."""
        if self._batch.unit == "sequences":
            return math.ceil(self.rows_in_epoch / self._sequences)
        return len(self._plan(epoch).tokens)

    def step(self, index: int, rank: int = 0, world: int = 1) -> list[Rows]:
        """Return the microbatches of an optimizer step, each an array of sequence numbers.

        Args:
            index: the step, 0 the first.
            rank: the process that runs them; together, the processes have every row of the step once.
            world: number of processes. With more processes than rows, the last have no microbatch.
        """
        rows = self._rows(*self._locate(index))
        # Sorted by length: every process has rows of all lengths.
        return self._groups.cut(rows[rank::world], self.microbatch_tokens) if rank < len(rows) else []

    def shares(self, index: int, world: int) -> list[list[Rows]]:
        """Return the microbatches of optimizer step `index` by process."""
        return [self.step(index, rank, world) for rank in range(world)]

    def whole_step(self, index: int) -> Rows:
        """Return all sequences of optimizer step `index`, sorted by the length of their rows."""
        return self._groups.sequences(self._rows(*self._locate(index)))

    def can_be_cut(self, index: int, world: int = 1) -> bool:
        """Return True if a microbatch of step `index` has several rows, so that a smaller budget would divide it."""
        return sum(map(len, self.shares(index, world))) < len(self._rows(*self._locate(index)))

    def tokens_in_step(self, index: int) -> int:
        """Return the real tokens of optimizer step `index`."""
        plan, position = self._locate(index)
        return int(plan.tokens[position])

    def epoch_of(self, index: int) -> int:
        """Return the epoch of optimizer step `index`, counted from 0."""
        while self._first_steps[-1] <= index:
            self._first_step(len(self._first_steps))
        return int(np.searchsorted(self._first_steps, index, side="right")) - 1

    def num_steps(self, duration: Duration) -> int:
        """Return the steps of `duration`, at least 1; for tokens, the fewest steps that reach the amount."""
        match duration.unit:
            case "steps":
                return max(1, math.ceil(duration.amount))
            case "epochs":
                return self._steps_of_epochs(duration.amount)
            case "tokens":
                return self._steps_of_tokens(duration.amount)

    def _steps_of_epochs(self, amount: float) -> int:
        whole = math.floor(amount)
        steps = self._first_step(whole)
        if part := amount - whole:
            # 0.1 of 30 steps is 3, not the 4 that ceil makes of 3.0000000000000004.
            steps += math.ceil(part * self.steps_in_epoch(whole) - 1e-6)
        return max(1, steps)

    def _steps_of_tokens(self, amount: float) -> int:
        epoch, rest = 0, amount
        if self._mixture is None:
            epoch, rest = int(amount // self.tokens_in_epoch(0)), amount % self.tokens_in_epoch(0)
        while rest >= (tokens := self.tokens_in_epoch(epoch)):
            epoch, rest = epoch + 1, rest - tokens
        steps = self._first_step(epoch)
        if rest:
            reached = np.cumsum(self._plan(epoch).tokens)
            steps += int(np.searchsorted(reached, rest)) + 1
        return max(1, steps)

    @property
    def _sequences(self) -> int:
        return max(1, round(self._batch.amount))

    def _first_step(self, epoch: int) -> int:
        while len(self._first_steps) <= epoch:
            known = len(self._first_steps) - 1
            self._first_steps.append(self._first_steps[-1] + self.steps_in_epoch(known))
        return self._first_steps[epoch]

    def _locate(self, index: int) -> tuple[_Epoch, int]:
        if index < 0:
            raise IndexError(f"optimizer steps start at 0, not {index}")
        epoch = self.epoch_of(index)
        return self._plan(epoch), index - self._first_steps[epoch]

    def _rows(self, plan: _Epoch, position: int) -> Rows:
        return plan.order[plan.bounds[position] : plan.bounds[position + 1]]

    def _make_plan(self, epoch: int) -> _Epoch:
        random = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        if self._mixture is None or self._of_sources is None:
            permutation = random.permutation(len(self._lengths))
        else:
            taken = self._mixture.epoch(epoch, self._of_sources, self._seed)
            permutation = taken[random.permutation(len(taken))]
        if self._batch.unit == "sequences":
            steps = _steps_of_sequences(permutation, self._lengths, self._sequences, random)
        else:
            steps = _steps_of_about(permutation, self._lengths, self._batch.amount, random)
        sizes = np.array([len(rows) for rows in steps], dtype=np.int64)
        order = np.concatenate(steps)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        return _Epoch(order, bounds, np.add.reduceat(self._lengths[order], bounds[:-1]))


def _steps_of_sequences(permutation: Rows, lengths: Rows, sequences: int, random: np.random.Generator) -> list[Rows]:
    whole = len(permutation) // sequences * sequences
    steps: list[Rows] = []
    reach = _reach(whole // sequences)
    for start in range(0, whole, POOL_STEPS * sequences):
        pool = _sorted_by_length(permutation[start : min(start + POOL_STEPS * sequences, whole)], lengths)
        pool = _mixed(pool, np.arange(len(pool)) / sequences, reach, random)
        steps.extend(pool.reshape(-1, sequences))
    if reach:
        steps = [_sorted_by_length(rows, lengths) for rows in steps]
    steps = [steps[index] for index in random.permutation(len(steps))]
    # The rows left over are the permutation's last, not the longest of a pool, and end the epoch.
    return [*steps, _sorted_by_length(permutation[whole:], lengths)] if whole < len(permutation) else steps


def _steps_of_about(permutation: Rows, lengths: Rows, tokens: float, random: np.random.Generator) -> list[Rows]:
    before = np.cumsum(lengths[permutation]) - lengths[permutation]
    pool_of = (before // (POOL_STEPS * tokens)).astype(np.int64)
    reach = _reach(lengths[permutation].sum() / tokens)
    steps: list[Rows] = []
    for pool in np.split(permutation, np.flatnonzero(np.diff(pool_of)) + 1):
        pool = _sorted_by_length(pool, lengths)
        pool = _mixed(pool, np.cumsum(lengths[pool]) / tokens, reach, random)
        ends = np.cumsum(lengths[pool])
        parts = max(1, round(ends[-1] / tokens))
        # A row belongs to the step that its middle token falls into, so that steps differ by less
        # than a row.
        step_of = ((ends - lengths[pool] / 2) * parts / ends[-1]).astype(np.int64)
        steps.extend(np.split(pool, np.flatnonzero(np.diff(step_of)) + 1))
    if reach:
        steps = [_sorted_by_length(rows, lengths) for rows in steps]
    return [steps[index] for index in random.permutation(len(steps))]


def _reach(steps: float) -> float:
    """Return how many steps a row may move in its sorted pool, either way, in an epoch of `steps` steps.

    In a sorted pool, rows of a length stay together: in an epoch of a single pool they would meet in every epoch. Moved
    by up to r steps, about one in 2 r + 1 of a row's companions is left, if its pool has the same rows again, which is
    as likely as the pool's share of the epoch.
    """
    share_of_pool = min(1.0, POOL_STEPS / max(steps, 1))
    return max(0.0, (share_of_pool / RETURNING - 1) / 2)


def _mixed(rows: Rows, positions: NDArray[np.float64], reach: float, random: np.random.Generator) -> Rows:
    """Return sorted rows, each moved by a random distance of at most `reach` from its position, in steps."""
    if not reach:
        return rows
    return rows[np.argsort(positions + random.uniform(-reach, reach, len(rows)), kind="stable")]


def _sorted_by_length(rows: Rows, lengths: Rows) -> Rows:
    return rows[np.argsort(lengths[rows], kind="stable")]


def evaluation_batches(
    lengths: NDArray[np.int32], microbatch_tokens: int, choice_of: NDArray[np.int64] | None = None
) -> list[Rows]:
    """Return every sequence once, sorted by length, in batches of at most `microbatch_tokens` padded tokens.

    Args:
        lengths: (sequences,) tokens of each.
        microbatch_tokens: most padded tokens of a batch.
        choice_of: as `Batches`; None lets the choices of a row stand in several batches.
    """
    if len(lengths) == 0:
        return []
    groups = Groups(lengths, choice_of)
    return groups.cut(np.argsort(groups.tokens, kind="stable"), microbatch_tokens)


def padded_tokens(lengths: NDArray[np.int32], batches: Sequence[Rows]) -> int:
    """Return the padded tokens of all batches."""
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches)


def torn_step(batch: BatchSize, passes: int, microbatch_tokens: int) -> ConfigError:
    """Return the error for a step of several forward passes whose rows must be compared with each other."""
    return ConfigError(
        f"training.batch: {batch} are cut into {passes} forward passes by execution.microbatch_tokens "
        f"({microbatch_tokens}), but the objective compares the rows of a step with each other (optimal_transport, "
        "samples, sample_relation), so that they must be one: raise execution.microbatch_tokens or make training.batch "
        "smaller"
    )
