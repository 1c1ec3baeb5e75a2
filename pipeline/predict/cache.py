"""The cache of rows that were read: the store's, or a temporary folder, since a look makes no store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import store_for_look


@contextmanager
def cache_of(store: Path | None) -> Iterator[Path]:
    """Yield the cache of a store, or a temporary folder where there is no store."""
    root = read_settings(store).store
    if root.is_dir():
        with store_for_look(root) as opened:
            yield opened.cache
        return
    with TemporaryDirectory(prefix="distill-") as folder:
        yield Path(folder)
