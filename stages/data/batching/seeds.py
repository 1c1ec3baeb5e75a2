"""Seed of a stage's draws: the order of its rows, its dropout masks and its masked words."""

from __future__ import annotations

import hashlib


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed, below 2^64, of everything that is drawn in every step of a stage.

    Stages of one recipe usually share `training.seed`. With it alone, two stages that read the same text in steps of
    the same size would read the same rows in the same order, so that the second saw nothing new.

    Args:
        seed: `training.seed`.
        stage: name of the stage.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{stage}".encode()).digest()[:8], "big")
