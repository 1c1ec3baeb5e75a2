"""Mid-stage states: optimizer, schedule, RNG and data position.

With them a killed stage goes on where it was. A state is kept like a checkpoint (written beside,
synced, renamed, every file hashed, its stage named, its manifest sealed) but is never needed to use
one: it lives under `states/` and goes when its stage is finished. Two are kept, so that a damaged
newest one costs minutes and not the stage.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from pipeline.store import files
from schemas.core.base import Frozen
from schemas.core.regular_files import read_regular
from schemas.results.manifest import FileEntry
from stages.ports.protocols import TrainingState

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_KEPT = 2
_STEP = re.compile(r"^step-(\d+)$")
_TENSORS, _NUMBERS, _MANIFEST, _SEAL = ("state.safetensors", "state.json", "manifest.json", "manifest.sha256")


class StateManifest(Frozen):
    """Makes a folder a state; written last."""

    format: Literal[1] = 1
    """Version of this layout."""
    stage: str | None = None
    """Which stage it is of; null in states of versions that did not say."""
    digest: str | None = None
    """The stage's digest; null as above."""
    needs: tuple[str, ...] = ()
    """Digests of the stages that its stage reads: parent and teachers."""
    step: int
    """Optimizer steps taken."""
    files: dict[str, FileEntry]
    """Every file of the state but this one and its seal."""
    time: float = 0.0
    """When it was written, in seconds since 1970."""


class FolderStates:
    """The states of one stage in one folder; a `stages.ports.protocols.StateStore`.

    Args:
        folder: where they are.
        stage: the stage's name; a state of another one is passed over.
        digest: the stage's digest, likewise.
        needs: digests of the stages that it reads.
    """

    def __init__(self, folder: Path, stage: str, digest: str, needs: Iterable[str] = ()) -> None:
        self.folder = folder
        self.stage, self.digest, self.needs = stage, digest, tuple(sorted(needs))
        if folder.is_dir():
            files.sweep(folder)

    def save(self, state: TrainingState) -> None:
        """Keep `state` and the one before it.

        Raises:
            StoreError: the file system refused; older states are as they were.
        """
        from safetensors.torch import (
            save_file,  # with torch, which a look at the store does not need
        )

        with files.storage_errors(self.folder), files.unfinished(self.folder) as folder:
            save_file(_storable(state.tensors), folder / _TENSORS)
            numbers = json.dumps({"step": state.step, "numbers": dict(state.numbers)}, allow_nan=True)
            (folder / _NUMBERS).write_text(numbers + "\n", encoding="utf-8")
            manifest = StateManifest(
                stage=self.stage,
                digest=self.digest,
                needs=self.needs,
                step=state.step,
                files=files.measure(folder),
                time=time.time(),
            )
            files.write_manifest(folder, manifest)
            files.sync_tree(folder)
            self._publish(folder, self.folder / f"step-{state.step:08d}")
            files.sync(self.folder)
        self._retire(state.step)

    def _publish(self, folder: Path, target: Path) -> None:
        # The same step is saved again after a fall-back to an older state; the name is
        # free for a moment, but the
        # older state is still there should the process die in it.
        if target.exists():
            aside = self.folder / files.temporary_name()
            os.replace(target, aside)
            os.replace(folder, target)
            files.remove(aside)
        else:
            os.replace(folder, target)

    def _retire(self, step: int) -> None:
        # A later step than the one just saved was passed over as damaged, or it would
        # have been gone on from.
        older = [name for name in self._steps() if name <= step]
        for stale in set(self._steps()) - set(older[-_KEPT:]):
            files.remove(self.folder / f"step-{stale:08d}")

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (_STEP.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> TrainingState | None:
        """The newest state whose every byte is as it was written; None when there is none.

        A damaged one is passed over with a warning that names the file.
        """
        for step in reversed(self._steps()):
            folder = self.folder / f"step-{step:08d}"
            problem = self._problem(folder, step)
            if problem is None:
                return _read(folder)
            log.warning("%s is not used: %s; going on from the state before it, if there is one", folder, problem)
        return None

    def _problem(self, folder: Path, step: int) -> str | None:
        try:
            text = read_regular(folder / _MANIFEST)
            manifest = StateManifest.model_validate_json(text)
            if manifest.digest is None:
                return "an earlier version wrote it, without the name of its stage"
            if not files.is_sealed(folder / _SEAL, text):
                return f"{_MANIFEST} is not the one {_SEAL} was written for"
            wrong = self._of_another(manifest, step)
            return wrong or "; ".join(files.differences(folder, manifest.files, content=True)) or None
        except FileNotFoundError:
            return f"{_MANIFEST} is missing"
        except OSError as error:
            return f"{Path(error.filename or _MANIFEST).name} cannot be read ({error.strerror})"
        except (ValidationError, ValueError):
            return f"{_MANIFEST} cannot be read"

    def _of_another(self, manifest: StateManifest, step: int) -> str | None:
        """Whether it is of another stage or step, or no state of any."""
        if missing := {_TENSORS, _NUMBERS} - set(manifest.files):
            return f"{_MANIFEST} does not list {', '.join(sorted(missing))}"
        if (manifest.stage, manifest.digest) != (self.stage, self.digest):
            return (
                f"it is of {manifest.stage} of digest {str(manifest.digest)[:16]}, not of {self.stage} of "
                f"{self.digest[:16]}"
            )
        return None if manifest.step == step else f"{_MANIFEST} is of step {manifest.step}"

    def clear(self) -> None:
        """Remove all states; their stage is finished."""
        if self.folder.exists():
            files.remove(self.folder)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and in memory of their own, as safetensors wants."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        own = tensor.detach().to("cpu").contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != own.nbytes:
            own = own.clone()
        seen.add(storage.data_ptr())
        result[name] = own
    return result


def _read(folder: Path) -> TrainingState:
    kept = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
    from stages.models.tensors import read_tensors  # as above

    return TrainingState(step=int(kept["step"]), tensors=read_tensors(folder / _TENSORS), numbers=dict(kept["numbers"]))
