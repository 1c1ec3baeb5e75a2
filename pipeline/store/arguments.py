"""Arguments that name a run or a checkpoint of a store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer


def _store(context: typer.Context) -> Path:
    return Path(context.params.get("store") or os.environ.get("DISTILL_STORE") or "distill-store")


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a run."""
    return [path.stem for path in _newest_first(_store(ctx).glob("runs/*.json")) if path.stem.startswith(incomplete)]


def complete_student(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a run, or the path of a checkpoint."""
    checkpoints = [str(path) for path in _newest_first(_store(ctx).glob("checkpoints/[a-z]*"))]
    return [*complete_run(ctx, incomplete), *(path for path in checkpoints if path.startswith(incomplete))]


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Name of a run (distill runs); the newest if left out.", autocompletion=complete_run
    ),
]
