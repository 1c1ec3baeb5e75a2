"""Training states in an object store, so that a stage whose machine is gone continues on another.

What is there, beside what `remote` lists:

    states/STAGE-DIGEST16/newest        the sealed pointer to the newest state: its folder, its step and its manifest
    states/STAGE-DIGEST16/ID/FILE       the files of a state, in a folder of its own, which only its writer replaces

States are sent by a thread, the newest alone, so that training never waits. A pointer is replaced only by that of a
later step. Whoever has replaced a pointer removes the state before it, and whoever finishes the stage all that is left;
where the store refuses to delete, they stay and cost room.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.store.remote import Damaged, Remote
from schemas.core.base import Frozen
from schemas.core.regular_files import read_regular
from schemas.results.manifest import FileEntry
from stages.storage.sealed_folder import MANIFEST, MANIFEST_SEAL, seal_of

log = logging.getLogger(__name__)


class _Pointer(Frozen):
    folder: str
    """Folder of the state in the store."""
    step: int
    """Optimizer steps taken."""
    manifest: str
    """Text of the state's manifest."""

    @property
    def files(self) -> dict[str, FileEntry]:
        return {name: FileEntry(**entry) for name, entry in json.loads(self.manifest)["files"].items()}


class RemoteStates:
    """The states of one stage in an object store.

    Args:
        remote: the store.
        name: `STAGE-DIGEST16`.
    """

    def __init__(self, remote: Remote, name: str) -> None:
        self.remote, self.name = remote, name
        self._offered: Path | None = None
        self._is_offered = threading.Condition()
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None

    def offer(self, folder: Path) -> None:
        """Have a state of the local copy sent, unless a newer one is offered meanwhile."""
        with self._is_offered:
            self._offered = folder
            self._is_offered.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_offered, name="states", daemon=True)
            self._thread.start()

    def _send_offered(self) -> None:
        while True:
            with self._is_offered:
                while (folder := self._offered) is None:
                    self._is_offered.wait()
                self._offered = None
            with suppress(Exception):  # it is said once that the store does not answer; the next state is tried
                self.send(folder)

    def send(self, folder: Path) -> None:
        """Send a state, unless the store has that of a later step."""
        with self._sending, suppress(FileNotFoundError):  # a newer one has replaced it here
            self.remote.asked(lambda: self._send(folder, read_regular(folder / MANIFEST).decode("utf-8")))

    def _send(self, folder: Path, manifest: str) -> None:
        before, step = self._pointer(), int(json.loads(manifest)["step"])
        if before is not None and before.step >= step:
            return
        pointer = _Pointer(folder=uuid.uuid4().hex, step=step, manifest=manifest)
        # Small files first: once the large one is open, it may be replaced.
        for name, _ in sorted(pointer.files.items(), key=lambda item: item[1].size):
            self.remote.put(folder / name, self._key(pointer.folder, name))
        self.remote.replace(self._key("newest"), pointer.model_dump_json().encode("utf-8"))
        if before is not None:
            self._remove(before)

    def fetch(self, later_than: int, folder: Path) -> int | None:
        """Fetch the newest state into a folder if it is of a later step; return its step, None without one."""
        return self.remote.asked(lambda: self._fetch(later_than, folder))

    def _fetch(self, later_than: int, folder: Path) -> int | None:
        pointer = self._pointer()
        if pointer is None or pointer.step <= later_than:
            return None
        try:
            for name, entry in pointer.files.items():
                if PurePosixPath(name).name != name:
                    raise Damaged(f"{name} points outside the folder")
                self.remote.get(self._key(pointer.folder, name), folder / name, entry)
        except Damaged as error:
            log.warning("%s/%s is not used: %s", self.remote.address, self._key("newest"), error)
            return None
        (folder / MANIFEST_SEAL).write_text(seal_of(pointer.manifest.encode("utf-8")), encoding="utf-8")
        (folder / MANIFEST).write_text(pointer.manifest, encoding="utf-8")
        return pointer.step

    def clear(self) -> None:
        """Remove all states and the pointer; the stage is finished."""
        with self._sending:
            self._offered = None
            self.remote.asked(self._clear)

    def _clear(self) -> None:
        self.remote.remove(self._key("newest"))
        self.remote.remove_below(self._key())  # also what a process that was killed had begun to send

    def _remove(self, pointer: _Pointer) -> None:
        for name in pointer.files:
            self.remote.remove(self._key(pointer.folder, name))

    def _pointer(self) -> _Pointer | None:
        content = self.remote.read(self._key("newest"))
        if content is None:
            return None
        value: Any = None
        with suppress(ValueError):
            value = _Pointer.model_validate_json(content)
        return value if isinstance(value, _Pointer) else None

    def _key(self, *parts: str) -> str:
        return "/".join(("states", self.name, *parts))
