"""Results of `distill latency`: the time that models take for the same texts, measured in turn."""

from __future__ import annotations

from schemas.core.base import Frozen


class Latency(Frozen):
    """Time of one model for one shape of batch."""

    name: str
    """Model."""
    batch: int
    """Texts in a call."""
    length: int | None
    """Tokens of each text; null for texts in their own length."""
    threads: int
    """Threads of the model."""
    wall_ms: float
    """Median wall time of a call, in milliseconds."""
    wall_ms_95: float
    """Time within which 95 % of the calls ended."""
    processor_ms: float
    """Median processor time of a call, of all threads together."""
    times_faster: float
    """Processor time of the reference model divided by this model's, of all rounds."""
    times_faster_low: float
    """The lowest ratio of a round."""
    times_faster_high: float
    """The highest."""


class MeasuredModel(Frozen):
    """Size of one model, in a process of its own."""

    name: str
    """Model."""
    size: int
    """Bytes of its weights on disk."""
    start_seconds: float
    """Seconds from the start of a process to its first answer."""
    peak_bytes: int
    """Largest resident memory of that process; 0 where the system does not tell."""


class LatencyReport(Frozen):
    """Everything that `distill latency` shows."""

    models: tuple[MeasuredModel, ...]
    """The reference first."""
    latencies: tuple[Latency, ...]
    """Every model with every batch, length and number of threads."""
    processor: str
    """Processor that it was measured on."""
    texts: str
    """Origin of the texts."""
    rounds: int
    """Rounds, in each of which every model answered every batch."""
    is_busy: bool
    """True if other work took a part of the processor: wall times are then too long."""
