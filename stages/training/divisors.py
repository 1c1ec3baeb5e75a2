"""Divisors of the terms' sums: the count of a mean step of the epoch, not of the step at hand.

A step of short rows has many rows (batches by tokens) or few tokens (batches by sequences). Divided by its own count, a
row would weigh the more the fewer rows its step has: the epoch's gradient would be that of a mean over steps. Divided
by one number in the whole epoch, it is that of the mean over rows, tokens or pairs, whatever a term counts; and every
step of the mean size has the gradient that it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.data.batching.batches import Batches
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch, Tokens
from stages.objective.terms import Term


@dataclass(frozen=True)
class StepSize:
    """Size of a step, or of a process's part of it."""

    rows: int
    """Sequences."""
    tokens: int
    """Real tokens."""
    padded: int
    """Tokens including padding, over all forward passes."""

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> StepSize:
        """Return the size of some microbatches together."""
        sizes = [(len(batch.input_ids), batch.num_tokens, batch.input_ids.numel()) for batch in batches]
        return cls(*map(sum, zip(*sizes, strict=True))) if sizes else cls(0, 0, 0)


class Divisors:
    """Divisors of every term in every step of a stage; a function of its rows and batches alone."""

    def __init__(self, tokens: Tokens, batches: Batches) -> None:
        self._tokens, self._batches = tokens, batches
        self._epoch = 0
        self._totals: dict[str, int] = {}
        """Count of each term over the epoch, by the term's key; and of all `rows` and `tokens`, where terms need it."""

    def of_step(self, terms: Sequence[Term], epoch: int, size: StepSize, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the divisor of each term's sum in one step, by the term's key.

        Args:
            terms: the objective's terms.
            epoch: epoch of the step, counted from 0.
            size: size of the step.
            counts: each term's count over the step, by the term's key.
        """
        steps = self._batches.steps_in_epoch(epoch)
        totals = self._totals_in(epoch, terms)

        def divisor(term: Term) -> float:
            match term.counted:
                case "rows":
                    number = size.rows
                case "tokens":
                    number = size.tokens
                case _:
                    return totals[term.key] / steps
            return counts[term.key] * totals[term.counted] / (steps * number)

        return {term.key: divisor(term) for term in terms}

    def _totals_in(self, epoch: int, terms: Sequence[Term]) -> Mapping[str, int]:
        """Return the epoch's count of each term that lengths and labels decide; the rows of a mixture's epochs differ.

        Counts are added up in Python's integers: exactly, whatever the size of the epoch.
        """
        if epoch != self._epoch and self._batches.epochs_differ:
            self._totals.clear()
        self._epoch = epoch
        missing = [term for term in terms if term.key not in self._totals]
        by_lengths = [term for term in missing if term.counted == "lengths"]
        if by_lengths:
            lengths, numbers = self._lengths(epoch)
            rows = [_row_of(length) for length in lengths]
            for term in by_lengths:
                counts = (term.count(row) for row in rows)
                self._totals[term.key] = sum(count * number for count, number in zip(counts, numbers, strict=True))
        by_labels = [term for term in missing if term.counted == "labels"]
        if by_labels:
            self._totals |= dict.fromkeys((term.key for term in by_labels), 0)
            for rows_of_pass in self._batches.passes_in_epoch(epoch):
                batch = self._tokens.batch(rows_of_pass)
                for term in by_labels:
                    self._totals[term.key] += term.count(batch)
        counted = {term.counted for term in terms} - self._totals.keys()
        if "rows" in counted:
            self._totals["rows"] = len(self._batches.sequences_in_epoch(epoch))
        if "tokens" in counted:
            self._totals["tokens"] = self._batches.tokens_in_epoch(epoch)
        return self._totals

    def _lengths(self, epoch: int) -> tuple[list[int], list[int]]:
        """Return the lengths that occur in the epoch, and the number of sequences of each."""
        lengths = self._tokens.lengths
        if self._batches.epochs_differ:
            lengths = lengths[self._batches.sequences_in_epoch(epoch)]
        numbers = np.bincount(lengths)
        occurring = np.flatnonzero(numbers)
        return occurring.tolist(), numbers[occurring].tolist()


def _row_of(length: int) -> Batch:
    """Return a batch of one sequence of some tokens, for counts that depend on nothing else."""
    ids = torch.zeros(1, length, dtype=torch.long)
    return Batch(ids, torch.ones_like(ids), None, Targets(), length)
