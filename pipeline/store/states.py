"""Training states: optimizer, schedule, random generators and data position, from which a killed stage continues.

A state is written like a checkpoint (renamed into place, every file hashed, its manifest sealed), but no checkpoint
needs it: it lives under `states/` and is removed when its stage is finished. Two are kept, so that a damaged newest
one costs minutes and not the stage.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.store.files import storage_errors
from pipeline.store.remote_states import RemoteStates
from schemas.core.base import Frozen
from schemas.core.regular_files import read_regular
from schemas.results.manifest import FileEntry
from stages.ports.protocols import TrainingState
from stages.storage import sealed_folder
from stages.storage.sealed_folder import MANIFEST, MANIFEST_SEAL

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_KEPT = 2
_STEP = re.compile(r"^step-(\d+)$")
_TENSORS, _NUMBERS = "state.safetensors", "state.json"


class StateManifest(Frozen):
    """Manifest of a state's folder; written last."""

    format: Literal[1] = 1
    """Version of this layout."""
    stage: str | None = None
    """Name of the stage; null in states of versions that did not record it."""
    digest: str | None = None
    """The stage's digest; null as above."""
    needs: tuple[str, ...] = ()
    """Digests of the stages that its stage reads: parent and teachers."""
    step: int
    """Optimizer steps taken."""
    files: dict[str, FileEntry]
    """Every file of the state except the manifest and its seal."""
    time: float = 0.0
    """Time of writing in seconds since 1970."""


class FolderStates:
    """The states of one stage in one folder; a `stages.ports.protocols.StateStore`.

    Args:
        folder: folder of the states.
        stage: the stage's name; a state of another one is skipped.
        digest: the stage's digest, likewise.
        needs: digests of the stages that it reads.
        remote: the states of the stage in an object store; None without one.
    """

    def __init__(
        self, folder: Path, stage: str, digest: str, needs: Iterable[str] = (), remote: RemoteStates | None = None
    ) -> None:
        self.folder, self.remote = folder, remote
        self.stage, self.digest, self.needs = stage, digest, tuple(sorted(needs))
        if folder.is_dir():
            sealed_folder.sweep(folder)

    def save(self, state: TrainingState) -> None:
        """Keep `state` and the one before it.

        Raises:
            StoreError: the file system refused; older states are unchanged.
        """
        from safetensors.torch import save_file  # imports torch, which a look at the store does not need

        with storage_errors(self.folder), sealed_folder.unfinished(self.folder) as folder:
            save_file(_storable(state.tensors), folder / _TENSORS)
            numbers = json.dumps({"step": state.step, "numbers": dict(state.numbers)}, allow_nan=True)
            (folder / _NUMBERS).write_text(numbers + "\n", encoding="utf-8")
            manifest = StateManifest(
                stage=self.stage,
                digest=self.digest,
                needs=self.needs,
                step=state.step,
                files=sealed_folder.measure(folder),
                time=time.time(),
            )
            sealed_folder.write_manifest(folder, manifest)
            sealed_folder.sync_tree(folder)
            # The same step is saved again after falling back to an older state, which exists should the process die
            # while the name is free.
            sealed_folder.publish(folder, self._path(state.step), sealed_folder.move_away)
        if self.remote is not None:
            self.remote.offer(self._path(state.step))
        # A later step than this one was skipped as damaged, or training would have continued from it.
        older = [step for step in self._steps() if step <= state.step]
        for stale in set(self._steps()) - set(older[-_KEPT:]):
            sealed_folder.remove(self._path(stale))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = (_STEP.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> TrainingState | None:
        """The newest undamaged state, or None; a damaged one is skipped with a warning that names the file."""
        self._fetch()
        for step in reversed(self._steps()):
            folder = self._path(step)
            if (problem := self._problem(folder, step)) is None:
                from stages.models.tensors import read_tensors  # imports torch, as above

                numbers = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
                tensors = read_tensors(folder / _TENSORS)
                return TrainingState(step=int(numbers["step"]), tensors=tensors, numbers=dict(numbers["numbers"]))
            log.warning("%s is not used: %s; continuing from the state before it, if there is one", folder, problem)
        return None

    def _fetch(self) -> None:
        """Fetch the state of another machine, if it is of a later step than those here."""
        if self.remote is None:
            return
        with storage_errors(self.folder), sealed_folder.unfinished(self.folder) as folder:
            step = self.remote.fetch(max(self._steps(), default=0), folder)
            if step is not None:
                sealed_folder.sync_tree(folder)
                sealed_folder.publish(folder, self._path(step), sealed_folder.move_away)

    def send(self) -> None:
        """Send the newest state to the object store, if there is one, before this process ends."""
        if self.remote is not None and (steps := self._steps()):
            self.remote.send(self._path(steps[-1]))

    def _problem(self, folder: Path, step: int) -> str | None:
        """The reason why a state cannot be used; None if it can."""
        try:
            text = read_regular(folder / MANIFEST)
            manifest = StateManifest.model_validate_json(text)
            if manifest.digest is None:
                return "an earlier version wrote it, without the name of its stage"
            if not sealed_folder.is_sealed(folder / MANIFEST_SEAL, text):
                return f"{MANIFEST} is not the one {MANIFEST_SEAL} was written for"
            if missing := {_TENSORS, _NUMBERS} - set(manifest.files):
                return f"{MANIFEST} does not list {', '.join(sorted(missing))}"
            if (manifest.stage, manifest.digest) != (self.stage, self.digest):
                return (
                    f"it is of {manifest.stage} of digest {manifest.digest[:16]}, not of {self.stage} of "
                    f"{self.digest[:16]}"
                )
            if manifest.step != step:
                return f"{MANIFEST} is of step {manifest.step}"
            return "; ".join(sealed_folder.differences(folder, manifest.files, content=True)) or None
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except OSError as error:
            return f"{Path(error.filename or MANIFEST).name} cannot be read ({error.strerror})"
        except ValueError:
            return f"{MANIFEST} cannot be read"

    def clear(self) -> None:
        """Remove all states; their stage is finished."""
        if self.folder.exists():
            sealed_folder.remove(self.folder)
        if self.remote is not None:
            self.remote.clear()


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and without shared memory, as safetensors requires."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storable = tensor.detach().to("cpu").contiguous()
        storage = storable.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != storable.nbytes:
            storable = storable.clone()
        seen.add(storage.data_ptr())
        result[name] = storable
    return result
