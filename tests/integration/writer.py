"""A machine of its own that keeps one stage in an object store, for tests that run several at once or kill one.

    python -m tests.integration.writer ADDRESS CACHE WORD BYTES

prints a line when its store is open, waits for one, and then commits a checkpoint whose weights are WORD over and over.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import CheckpointStore, open_store
from schemas.results.manifest import CheckpointRef
from tests.support.manifests import DIGEST, manifest_of, write_model


def machine(address: str, cache: str | Path) -> CheckpointStore:
    """The store as a machine with this folder of local copies opens it for a run."""
    return open_store(read_settings(address, {"DISTILL_CACHE": str(cache)}).store)


def commit(store: CheckpointStore, word: bytes, size: int) -> CheckpointRef:
    """Keep a stage whose weights are a word over and over, `size` bytes in all."""

    def write(folder: Path) -> None:
        write_model(folder)
        (folder / "model" / "model.safetensors").write_bytes(word * (size // len(word)))

    return store.writer("teacher", DIGEST).commit(manifest_of(), write)


def words_of(store: CheckpointStore) -> set[bytes] | None:
    """The words of the stage's weights as another machine finds them, every file compared; None without the stage."""
    from pipeline.store.checkpoints import verify

    found = store.find("teacher", DIGEST)
    if found is None:
        return None
    verify(Path(found[0].path))
    content = (Path(found[0].path) / "model" / "model.safetensors").read_bytes()
    return set(content.split())


if __name__ == "__main__":
    given_address, given_cache, given_word, given_size = sys.argv[1:]
    opened = machine(given_address, given_cache)
    print("open", flush=True)
    sys.stdin.readline()
    commit(opened, f"{given_word} ".encode(), int(given_size))
    print("done", flush=True)
