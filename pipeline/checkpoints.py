"""The checkpoint store: the only writer of run folders.

It is also the one answer to "is this stage done?". A checkpoint exists when its manifest does, in
a folder that appeared by one rename. The manifest names size and SHA-256 of every file;
`manifest.sha256` beside it (readable by `sha256sum -c`) covers the manifest itself, which holds
the metrics. Moving checkpoints to an object store is left out.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from pipeline import files
from pipeline.states import FolderStates
from schemas.comparison import AnyReport, TasksReport
from schemas.errors import CheckpointError, ConfigError, StoreError
from schemas.paths import local_path
from schemas.regular_files import read_regular, special_kind
from schemas.results import CheckpointRef, Judgement, Manifest, RunReport
from schemas.stage import StageName

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
_FREE_BYTES = 200_000_000
_RUN_NAME = re.compile(r"^[A-Za-z0-9][\w.\-]{0,127}$")
_ANY_REPORT: TypeAdapter[AnyReport] = TypeAdapter(AnyReport)
Report = TypeVar("Report", RunReport, TasksReport)
_FOLDERS = ("checkpoints", "states", "evaluations", "runs", "cache", "points", "locks")


class CheckpointStore:
    """Checkpoints, states, evaluations and reports under one folder; made by `open_store`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        """Tokenised data; may be emptied at any time."""
        self.points = root / "points"
        """Metrics of every run, a JSONL file each."""

    def folder(self, stage: StageName, digest: str) -> Path:
        """Where the checkpoint of this stage is, or would be."""
        return self.root / "checkpoints" / f"{stage}-{digest[:16]}"

    def find(self, stage: StageName, digest: str) -> tuple[CheckpointRef, Manifest] | None:
        """The finished stage of that digest, or None; looks at sizes, not at content.

        Raises:
            CheckpointError: it is there but damaged; the message names the file and the remedy.
        """
        folder = self.folder(stage, digest)
        if not (folder / MANIFEST).is_file():
            if folder.exists():
                log.info("%s has no %s, so it is no checkpoint; it is ignored", folder, MANIFEST)
            return None
        manifest = _checked(folder, content=False)
        if (manifest.stage, manifest.digest) != (stage, digest):
            raise CheckpointError(
                f"{folder} holds {manifest.stage} of digest {manifest.digest[:16]}, not {stage} of "
                f"{digest[:16]}; somebody moved or renamed it: delete the folder to redo {stage}"
            )
        return _ref(folder, manifest), manifest

    def writer(self, stage: StageName, digest: str) -> FolderWriter:
        """A `stages.ports.CheckpointWriter` for that stage."""
        return FolderWriter(self, stage, digest)

    def states(self, stage: StageName, digest: str) -> FolderStates:
        """A `stages.ports.StateStore` for that stage."""
        return FolderStates(self.root / "states" / f"{stage}-{digest[:16]}")

    @contextmanager
    def lock(self, stage: StageName, digest: str) -> Iterator[None]:
        """Holds the stage for this process; waits, saying so, while another process makes it.

        The operating system frees the lock when its holder dies. After waiting, ask `find` again.
        """
        path = self.root / "locks" / f"{stage}-{digest[:16]}.lock"
        with files.storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                log.warning("another process is making %s (%s); waiting for it", stage, digest[:16])
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def read_judgement(self, digest: str) -> Judgement | None:
        """The kept evaluation of that digest; None when there is none or it cannot be read."""
        path = self._evaluation(digest)
        try:
            return Judgement.model_validate_json(read_regular(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            log.warning("%s cannot be read; evaluating again", path)
            return None

    def write_judgement(self, digest: str, judgement: Judgement) -> None:
        """Keep an evaluation under its digest; raises StoreError when it cannot."""
        files.write_json(self._evaluation(digest), judgement)

    def _evaluation(self, digest: str) -> Path:
        assert re.fullmatch(r"[0-9a-f]+", digest), digest
        return self.root / "evaluations" / f"{digest}.json"

    def write_report(self, report: Report) -> Report:
        """Keep a run's report; the report as it is kept.

        Names go by the second, so another run may have the same one: then `-2`, `-3` and so on is added to it.

        Raises StoreError when it cannot.
        """
        path, taken = self._report(report.run), 1
        lock = self.root / "locks" / "reports.lock"
        with files.storage_errors(lock.parent):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                while path.exists():
                    taken += 1
                    path = self._report(f"{report.run}-{taken}")
                report = report.model_copy(update={"run": path.stem})
                files.write_json(path, report)
        return report

    def read_report(self, name: str | None = None) -> AnyReport:
        """The report of that name, or the newest.

        Raises:
            ConfigError: there is none of that name; the message lists those there are.
            CheckpointError: the file is damaged.
        """
        names = self.list_reports()
        if not names:
            raise ConfigError(
                f"{self.root} holds no finished run; start one with `distill run RECIPE`"
            )
        if name is None:
            name = names[0]
        path = self._report(name)
        if name not in names:
            raise ConfigError(
                f"there is no run {name!r} in {self.root}; there are: {', '.join(names[:20])}"
            )
        try:
            return _ANY_REPORT.validate_json(read_regular(path))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read as a run's report; delete it and run again"
            ) from error

    def list_reports(self) -> list[str]:
        """Names of all reports, the newest first."""
        folder = self.root / "runs"
        found = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
        ordered = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
        return [path.stem for path in ordered]

    def _report(self, name: str) -> Path:
        if not _RUN_NAME.match(name):
            raise ConfigError(
                f"{name!r} is no run's name; names are letters, digits, - _ and . (see `runs/`)"
            )
        return self.root / "runs" / f"{name}.json"


@dataclass(frozen=True)
class FolderWriter:
    """Turns files into the checkpoint of one stage; a `stages.ports.CheckpointWriter`."""

    store: CheckpointStore
    stage: StageName
    digest: str

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill a folder, then make it a checkpoint in one rename.

        The stage's states go. If another process has finished the same stage first, that checkpoint
        stays and this one is dropped.

        Raises:
            StoreError: the file system refused; nothing unfinished is left.
        """
        assert (manifest.stage, manifest.digest) == (self.stage, self.digest), (
            "manifest of another stage"
        )
        target = self.store.folder(self.stage, self.digest)
        with files.storage_errors(target.parent), files.unfinished(target.parent) as folder:
            write(folder)
            full = manifest.model_copy(update={"files": files.measure(folder)})
            text = (full.model_dump_json(indent=1) + "\n").encode("utf-8")
            (folder / SEAL).write_text(seal_of(text), encoding="utf-8")
            (folder / MANIFEST).write_bytes(text)
            files.sync_tree(folder)
            kept = self._publish(folder, target)
            files.sync(target.parent)
        self.store.states(self.stage, self.digest).clear()
        return _ref(target, kept or full)

    def _publish(self, folder: Path, target: Path) -> Manifest | None:
        """Renames.

        Returns the manifest of a checkpoint that was there first, None when ours took the place.
        """
        for _ in range(3):
            if (there := self._make_way(target)) is not None:
                return there
            try:
                os.replace(folder, target)
                return None
            except OSError as error:
                # Another process has committed between the look and the rename: look again.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        raise StoreError(f"{target} keeps being made by another process; stop it and run again")

    def _make_way(self, target: Path) -> Manifest | None:
        if not os.path.lexists(target):
            return None
        try:
            manifest = verify(target)
            if (manifest.stage, manifest.digest) == (self.stage, self.digest):
                log.info("%s was finished by another process; that one is kept", target)
                return manifest
            reason = "it belongs to another stage"
        except CheckpointError as error:
            reason = str(error)
        aside = target.with_name(f".damaged-{target.name}-{os.urandom(4).hex()}")
        os.replace(target, aside)
        log.warning("moved %s aside to %s: %s", target.name, aside, reason)
        return None


def seal_of(manifest: bytes) -> str:
    """The content of `manifest.sha256` for a manifest's bytes."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"


def _ref(folder: Path, manifest: Manifest) -> CheckpointRef:
    return CheckpointRef(path=str(folder), stage=manifest.stage, digest=manifest.digest)


def _checked(folder: Path, *, content: bool) -> Manifest:
    """The manifest, once everything it says of the files is found true."""
    try:
        text = read_regular(folder / MANIFEST)
        manifest = Manifest.model_validate_json(text)
        problems = (
            [] if _sealed(folder, text) else [f"{MANIFEST} is not the one {SEAL} was written for"]
        )
        problems += files.differences(folder, manifest.files, content=content)
        if content:
            extra = set(files.files_in(folder)) - set(manifest.files) - {MANIFEST, SEAL}
            problems += [f"{name} is not in its manifest" for name in sorted(extra)]
    except (OSError, ValidationError, ValueError) as error:
        where = getattr(error, "filename", None) or MANIFEST
        raise _damaged(folder, [f"{Path(str(where)).name} cannot be read"]) from error
    if problems:
        raise _damaged(folder, problems)
    return manifest


def _sealed(folder: Path, manifest: bytes) -> bool:
    try:
        return read_regular(folder / SEAL) == seal_of(manifest).encode("utf-8")
    except FileNotFoundError:
        return False


def _damaged(folder: Path, problems: list[str]) -> CheckpointError:
    stage = re.sub(r"-[0-9a-f]{16}$", "", folder.name)
    return CheckpointError(
        f"{folder} is damaged: {'; '.join(problems)}; delete the folder to redo {stage}"
    )


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint, after every file has been compared with it by size and SHA-256.

    Raises:
        CheckpointError: it is no checkpoint, or files are damaged, missing or not in the manifest;
            all of them are named.
    """
    for path in (folder, folder / MANIFEST):
        if kind := special_kind(path):
            raise CheckpointError(
                f"{path} is {kind}, not a regular file; give the folder of a finished stage"
            )
    if not (folder / MANIFEST).is_file():
        what = (
            f"has no {MANIFEST}"
            if folder.is_dir()
            else "is no folder"
            if folder.exists()
            else "does not exist"
        )
        raise CheckpointError(
            f"{folder} {what}; expected the folder of a finished stage, such as "
            f"STORE/checkpoints/general-0123456789abcdef, with {MANIFEST} in it"
        )
    return _checked(folder, content=True)


def open_checkpoint(folder: str | Path) -> tuple[CheckpointRef, Manifest]:
    """A checkpoint somebody named, every file verified; its `model/` folder is accepted for it.

    Raises:
        CheckpointError: it is no checkpoint, or it is damaged.
    """
    path = local_path(folder, "CHECKPOINT").resolve()
    if (
        path.name == "model"
        and not (path / MANIFEST).exists()
        and (path.parent / MANIFEST).is_file()
    ):
        path = path.parent
    manifest = verify(path)
    return _ref(path, manifest), manifest


def open_store(path: str | Path) -> CheckpointStore:
    """The store in that folder, which is made if need be; leftovers of dead processes are swept.

    From then on this process writes nothing that everybody may write to.

    Raises:
        ConfigError: something that is no folder is in the way.
        StoreError: the folder cannot be written, or less than 200 MB are free there.
    """
    root = local_path(path, "--store").absolute()
    blocker = next((part for part in (root, *root.parents) if part.exists()), root)
    if not blocker.is_dir():
        raise ConfigError(
            f"--store {path}: {blocker} is a file, not a folder; give another folder or move it"
        )
    # Libraries write here too, each in its own way; nobody else may write to what any of them leaves.
    os.umask(os.umask(0o022) | 0o002)
    with files.storage_errors(root):
        for name in _FOLDERS:
            files.make_folder(root / name)
        with tempfile.TemporaryFile(dir=root / "checkpoints") as probe:
            probe.write(b"distill")
        free = shutil.disk_usage(root).free
    if free < _FREE_BYTES:
        raise StoreError(
            f"{root} has {free / 1e6:.0f} MB free, and a run needs at least "
            f"{_FREE_BYTES / 1e6:.0f} MB; "
            "make room there or give another folder with --store"
        )
    for name in ("checkpoints", "evaluations", "runs"):
        files.sweep(root / name)
    return CheckpointStore(root)
