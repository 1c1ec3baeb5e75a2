"""The part of a store that several machines share: an object store, reached through fsspec.

What is there:

    checkpoints/STAGE-DIGEST16   the sealed manifest of a finished stage
    evaluations/DIGEST           a sealed evaluation
    runs/NAME-SHA8               a sealed report
    objects/SHA256               a file that a manifest lists, under its content
    states/…                     the newest state of an unfinished stage (`remote_states`)

Files are sent first, and what names them last, so that whatever can be found is whole. Files are named by their
content and a manifest lists them by it: two writers of one stage never mix, whether the server knows conditional
writes or not. Nothing is locked there, nothing but states removed, and no decision rests on a listing. What arrives is
compared with its SHA-256 before it is used.

A run works on a local copy. It lists what is not sent yet in `unsent/`, written before the thing itself: whatever an
outage or a kill leaves behind is sent by the next run.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from schemas.core.credentials import without_credentials
from schemas.core.errors import CheckpointError, ConfigError, StoreError
from schemas.core.paths import REMOTE_NOTE
from schemas.core.regular_files import read_regular
from schemas.results.manifest import FileEntry, Manifest
from stages.storage.sealed_folder import MANIFEST, MANIFEST_SEAL, make_folder, seal_of, sha256_of

log = logging.getLogger(__name__)

T = TypeVar("T")
_REPORT = re.compile(r"[A-Za-z0-9][\w.\-]{0,180}-[0-9a-f]{8}")
UNSENT = "unsent"
_SEPARATOR = "--"
_PAUSE_SECONDS = 60.0
"""Time without a try after one that failed."""
_WEEK_SECONDS = 7 * 86400.0
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "abfs": "azure"}
_SETTINGS: dict[str, dict[str, Any]] = {
    # Bounded: a run goes on without an answer.
    "s3": {
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"max_attempts": 4, "mode": "standard"},
            # Many servers other than Amazon's refuse the checksums that botocore adds by default.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        "use_listings_cache": False,
    },
    "file": {"auto_mkdir": True},
}


class Damaged(Exception):
    """Raised when what arrived is not what its digest says."""


class Remote:
    """The object store of a store; made by `remote_of`.

    Args:
        address: such as `s3://bucket/path`.
        root: folder of the local copy.
    """

    def __init__(self, address: str, root: Path) -> None:
        self.address, self.root = address, root
        self._silent_until = 0.0
        self._has_told = self._has_answered = False

    @cached_property
    def _files(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        import fsspec

        scheme = self.address.partition(":")[0]
        try:
            files, path = fsspec.core.url_to_fs(self.address, **_SETTINGS.get(scheme, {}))
        except ImportError as error:
            extra = _EXTRAS.get(scheme, scheme)
            raise ConfigError(
                f"--store {self.address}: a package for {scheme}:// is missing ({error}); install it with: pip install "
                f"'distill-flow[{extra}]'"
            ) from None
        return files, str(path).rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._files[1]}/{key}"

    def check(self) -> None:
        """Send what earlier runs left, and see that reading and writing is allowed.

        Raises:
            ConfigError: the package for such an address is not installed.
            StoreError: the store does not answer, or refuses.
        """
        try:
            if self.read("format") is None:
                self._write("format", b"1\n")
            self._send_all()
        except (ConfigError, CheckpointError):
            raise
        except Exception as error:  # drivers raise what they like
            raise self._refusal(error) from error
        self._has_answered = True

    def _refusal(self, error: Exception) -> StoreError:
        return StoreError(
            f"--store {self.address} cannot be used ({_reason(error)}); check the address, the bucket's rights, this "
            "machine's clock and the credentials in the environment (docs/stores.md), or give a folder with --store"
        )

    # Documents: sealed texts, each under one name.

    def read(self, key: str) -> bytes | None:
        """The content of a document; None if there is none, or if it was not written to its end."""
        files, path = self._files[0], self._path(key)
        try:
            data: bytes = files.cat_file(path)
        except FileNotFoundError:
            return None
        seal, _, content = data.partition(b"\n")
        if seal.decode("utf-8", "replace") + "\n" != seal_of(content, PurePosixPath(key).name):
            log.warning("%s/%s is damaged or was not written to its end; it is ignored", self.address, key)
            return None
        return content

    def replace(self, key: str, content: bytes) -> None:
        """Write a document, whether there is one or not."""
        self._files[0].pipe_file(self._path(key), seal_of(content, PurePosixPath(key).name).encode("utf-8") + content)

    def remove(self, key: str) -> None:
        """Remove an object; one that is gone, or that may not be removed, stays without a word."""
        with suppress(Exception):  # drivers raise what they like
            self._files[0].rm_file(self._path(key))

    def _write(self, key: str, content: bytes) -> None:
        """Create a document; one that another writer created first stays."""
        files, path = self._files[0], self._path(key)
        data = seal_of(content, PurePosixPath(key).name).encode("utf-8") + content
        if self.read(key) is not None:
            return
        try:
            files.pipe_file(path, data, mode="create")
        except Exception as error:  # s3fs reports the precondition as EINVAL, others as FileExistsError
            if self.read(key) is not None:
                return
            if isinstance(error, PermissionError):
                raise
            # A server without conditional writes, or the rest of a write that was cut off: the last writer wins, and
            # both have written what the same digest stands for.
            files.pipe_file(path, data)
        if self.read(key) is None:
            raise OSError(errno.EIO, f"{key} cannot be read after it was written")

    def remove_below(self, key: str) -> None:
        """Remove all objects below a key, as `remove` does; what is listed too late stays."""
        files = self._files[0]
        with suppress(Exception):  # drivers raise what they like
            for path in files.find(self._path(key)):
                with suppress(Exception):
                    files.rm_file(path)

    # Files: named by their content.

    def _size(self, key: str) -> int | None:
        try:
            return int(self._files[0].info(self._path(key))["size"])
        except FileNotFoundError:
            return None

    def _send_file(self, file: Path, entry: FileEntry) -> None:
        key = f"objects/{entry.sha256}"
        if self._size(key) == entry.size:
            return
        self.put(file, key)
        if (size := self._size(key)) != entry.size:
            raise OSError(errno.EIO, f"{key} has {size} bytes after {entry.size} were written")

    def put(self, file: Path, key: str) -> None:
        """Send a file."""
        self._files[0].put_file(str(file), self._path(key))

    def _fetch_file(self, file: Path, entry: FileEntry) -> None:
        self.get(f"objects/{entry.sha256}", file, entry)

    def get(self, key: str, file: Path, entry: FileEntry) -> None:
        """Fetch a file and compare its digest; a second time if the first arrived damaged.

        Raises:
            Damaged: it is missing, or another.
        """
        make_folder(file.parent)
        for _ in range(2):
            try:
                self._files[0].get_file(self._path(key), str(file))
            except FileNotFoundError:
                raise Damaged(f"{key} is missing") from None
            if file.stat().st_size == entry.size and sha256_of(file) == entry.sha256:
                return
        raise Damaged(f"{key} has {file.stat().st_size:,} bytes whose SHA-256 is another")

    # What a store asks for.

    def fetch_checkpoint(self, name: str, folder: Path) -> bool:
        """Fetch the checkpoint `STAGE-DIGEST16` into a folder, every file verified; return whether there is one.

        Raises:
            CheckpointError: it is damaged there.
            StoreError: the store has not answered this process yet, and does not now.
        """
        return bool(self.asked(lambda: self._fetch_checkpoint(name, folder), is_decision=True))

    def _fetch_checkpoint(self, name: str, folder: Path) -> bool:
        text = self.read(f"checkpoints/{name}")
        if text is None:
            return False
        try:
            for path, entry in Manifest.model_validate_json(text).files.items():
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise Damaged(f"{path} points outside the folder")
                self._fetch_file(folder / path, entry)
        except (Damaged, ValueError) as error:
            raise CheckpointError(
                f"{self.address}/checkpoints/{name} is damaged ({error}): delete that object to make the stage again"
            ) from error
        (folder / MANIFEST_SEAL).write_text(seal_of(text), encoding="utf-8")
        (folder / MANIFEST).write_bytes(text)
        return True

    def fetch_document(self, key: str) -> bytes | None:
        """Fetch an evaluation or a report; None if there is none, or the store does not answer."""
        return self.asked(lambda: self.read(key))

    def list_reports(self) -> list[str]:
        """Keys of all reports there, to be shown; empty if the store does not answer."""

        def listed() -> list[str]:
            try:
                paths = self._files[0].ls(self._path("runs"), detail=False)
            except FileNotFoundError:
                return []
            names = (PurePosixPath(str(path)).name for path in paths)
            return [f"runs/{name}" for name in names if _REPORT.fullmatch(name)]

        return self.asked(listed) or []

    @contextmanager
    def sending(self, key: str) -> Iterator[None]:
        """Note that what the block writes is to be sent, and send it after; an outage leaves it to the next run."""
        make_folder(self.root / UNSENT)
        self._note(key).touch()
        yield
        self.asked(self._send_all)

    def is_sent(self, checkpoint: str) -> bool:
        """Return whether a checkpoint of the local copy, by its folder's name, does not wait to be sent."""
        return not self._note(f"checkpoints/{checkpoint}").exists()

    def _note(self, key: str) -> Path:
        return self.root / UNSENT / key.replace("/", _SEPARATOR)

    def _send_all(self) -> None:
        folder = self.root / UNSENT
        for note in sorted(folder.iterdir()) if folder.is_dir() else ():
            kind, _, name = note.name.partition(_SEPARATOR)
            if self._send(kind, name) or time.time() - note.stat().st_mtime > _WEEK_SECONDS:
                note.unlink(missing_ok=True)

    def _send(self, kind: str, name: str) -> bool:
        """Send what is noted; return False if it is not written yet."""
        if kind == "checkpoints":
            return self._send_checkpoint(name)
        file = self.root / kind / f"{name}.json"
        if not file.is_file():
            return False
        # Two machines may have runs of the same name.
        self._write(f"{kind}/{name}-{sha256_of(file)[:8]}" if kind == "runs" else f"{kind}/{name}", read_regular(file))
        return True

    def _send_checkpoint(self, name: str) -> bool:
        folder = self.root / "checkpoints" / name
        if not (folder / MANIFEST).is_file():
            return False
        text = read_regular(folder / MANIFEST)
        for path, entry in Manifest.model_validate_json(text).files.items():
            if sha256_of(folder / path) != entry.sha256:
                raise CheckpointError(f"{folder} is damaged: {path}; delete the folder to redo the stage")
            self._send_file(folder / path, entry)
        self._write(f"checkpoints/{name}", text)
        return True

    def asked(self, question: Callable[[], T], *, is_decision: bool = False) -> T | None:
        """The answer, or None from a store that does not answer, which is told once."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            answer = question()
            self._has_answered = True
            return answer
        except (CheckpointError, ConfigError):
            raise
        except Exception as error:  # drivers raise what they like
            if is_decision and not self._has_answered:
                raise self._refusal(error) from error
            self._silent_until = time.monotonic() + _PAUSE_SECONDS
            if not self._has_told:
                self._has_told = True
                log.warning(
                    "%s does not answer (%s); the run goes on with its local copy %s, and what is not sent is sent as "
                    "soon as it answers, or by the next run",
                    self.address,
                    _reason(error),
                    self.root,
                )
            return None


def _reason(error: BaseException) -> str:
    return without_credentials(f"{type(error).__name__}: {error}".splitlines()[0])[:200]


def remote_of(root: Path) -> Remote | None:
    """The object store that the store in the folder `root` is a copy of; None for one of its own."""
    try:
        return Remote((root / REMOTE_NOTE).read_text(encoding="utf-8").strip(), root)
    except (FileNotFoundError, NotADirectoryError):
        return None
