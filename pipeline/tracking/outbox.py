"""What else a run has to say (artifacts, tags, data sets), kept while no server takes it.

Beside a run's points `KEY.jsonl` stands `KEY.unsent/` with a folder for each request, numbered in
their order: `request.json` says what to send, `files/` holds the files. A request appears by one
rename and is removed when a server has it. Sent twice it is still one, for it names what it
replaces. Knows nothing of MLflow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.store.files import storage_errors
from schemas.core.base import Frozen
from stages.storage.sealed_folder import files_in, remove, sweep, sync, sync_tree, unfinished

log = logging.getLogger(__name__)

_REQUEST = "request.json"
_FILES = "files"


class Request(Frozen):
    """Something to tell a server about a run."""

    kind: Literal["artifacts", "tags", "data_set"]
    """Files to store, tags to set, or a data set that the run has read."""
    values: dict[str, str] = Field(default_factory=dict)
    """For artifacts their folder in the run as `path` (none: its root); tags by name; what describes the data set."""


@dataclass(frozen=True)
class Parcel:
    """A kept request."""

    folder: Path
    """Where it is kept."""
    request: Request
    """What to send."""

    @property
    def files(self) -> Path:
        """Folder of the artifacts' files."""
        return self.folder / _FILES

    def remove(self) -> None:
        """Forget it, since a server has it."""
        remove(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()  # where it was the last one


class Outbox:
    """The kept requests of one run."""

    def __init__(self, points: Path) -> None:
        self.folder = points.with_suffix(".unsent")

    def keep(self, request: Request, files: Path | None = None) -> None:
        """Keep a request and a copy of its files; raises StoreError when the file system refuses."""
        with storage_errors(self.folder):
            sweep(self.folder)
            with unfinished(self.folder) as folder:
                if files is not None:
                    _copy(files, folder / _FILES)
                (folder / _REQUEST).write_text(request.model_dump_json(), encoding="utf-8")
                sync_tree(folder)
                number = max((int(path.name) for path in self._folders()), default=0) + 1
                os.replace(folder, self.folder / f"{number:06d}")
                sync(self.folder)

    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._folders()

    def parcels(self) -> list[Parcel]:
        """What is kept, in order; a request that cannot be read stays where it is."""
        found = []
        for folder in self._folders():
            try:
                request = Request.model_validate_json((folder / _REQUEST).read_bytes())
            except (OSError, ValueError):
                log.warning("%s cannot be read and is not sent", folder / _REQUEST)
                continue
            found.append(Parcel(folder, request))
        return found

    def _folders(self) -> list[Path]:
        found = (path for path in self.folder.glob("*") if path.name.isdecimal())
        return sorted(found, key=lambda path: int(path.name))


def _copy(files: Path, into: Path) -> None:
    # Not copytree, whose error hides what the system said.
    for name in files_in(files):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files / name, into / name)
