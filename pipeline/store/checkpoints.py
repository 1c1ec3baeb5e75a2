"""The checkpoint store: the only writer of run folders.

It is also the one answer to "is this stage done?". A checkpoint exists when its manifest does, in
a folder that appeared by one rename. The manifest names size and SHA-256 of every file;
`manifest.sha256` beside it (readable by `sha256sum -c`) covers the manifest itself, which holds
the metrics. Moving checkpoints to an object store is left out.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pipeline.store import files, open_runs, run_reports
from pipeline.store import kept_evaluations as evaluations
from pipeline.store.files import seal_of as seal_of
from pipeline.store.states import FolderStates
from schemas.core.errors import CheckpointError, ConfigError, StoreError
from schemas.core.paths import local_path
from schemas.core.regular_files import read_regular, special_kind
from schemas.recipe.stage import StageName
from schemas.results.manifest import CheckpointRef, Judgement, Manifest
from schemas.results.report import AnyReport

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
_FREE_BYTES = 200_000_000
_FOLDERS = ("checkpoints", "states", "evaluations", "runs", "cache", "points", "locks", open_runs.FOLDER)
_SWEPT = ("checkpoints", "states", "evaluations", "runs", "points")


class CheckpointStore:
    """Checkpoints, states, evaluations and reports under one folder; made by `open_store` or `look_into_store`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        """Tokenised data; may be emptied at any time."""
        self.points = root / "points"
        """Metrics of every run, a JSONL file each."""

    def folder(self, stage: StageName, digest: str) -> Path:
        """Where the checkpoint of this stage is, or would be."""
        return self.root / "checkpoints" / f"{stage}-{digest[:16]}"

    def is_there(self, name: str) -> bool:
        """Whether the folder `STAGE-DIGEST16` is a finished stage's; content is not looked at."""
        return (self.root / "checkpoints" / name / MANIFEST).is_file()

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
        """A `stages.ports.protocols.CheckpointWriter` for that stage."""
        return FolderWriter(self, stage, digest)

    def states(self, stage: StageName, digest: str, needs: Iterable[str] = ()) -> FolderStates:
        """A `stages.ports.protocols.StateStore` for that stage, which reads the stages of the digests `needs`."""
        return FolderStates(self.root / "states" / f"{stage}-{digest[:16]}", stage, digest, needs)

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
        """The kept evaluation of that digest; None where there is none, or it is not as it was written."""
        return evaluations.read_judgement(self._evaluation(digest), digest)

    def write_judgement(self, digest: str, judgement: Judgement) -> None:
        """Keep an evaluation under its digest; raises StoreError when it cannot."""
        evaluations.write_judgement(self._evaluation(digest), digest, judgement)

    def _evaluation(self, digest: str) -> Path:
        assert re.fullmatch(r"[0-9a-f]+", digest), digest
        return self.root / "evaluations" / f"{digest}.json"

    def write_report(self, report: run_reports.Report) -> run_reports.Report:
        """Keep a run's report; as `run_reports.write_report`."""
        return run_reports.write_report(self.root, report)

    def read_report(self, name: str | None = None) -> AnyReport:
        """The report of that name, or the newest; as `run_reports.read_report`."""
        return run_reports.read_report(self.root, name)

    def list_reports(self) -> list[str]:
        """Names of all reports, the newest first."""
        return run_reports.list_reports(self.root)


@dataclass(frozen=True)
class FolderWriter:
    """Turns files into the checkpoint of one stage; a `stages.ports.protocols.CheckpointWriter`."""

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
        assert (manifest.stage, manifest.digest) == (self.stage, self.digest), "manifest of another stage"
        target = self.store.folder(self.stage, self.digest)
        with files.storage_errors(target.parent), files.unfinished(target.parent) as folder:
            write(folder)
            full = manifest.model_copy(update={"files": files.measure(folder)})
            files.write_manifest(folder, full)
            files.sync_tree(folder)
            kept = self._publish(folder, target)
            files.sync(target.parent)
        self.store.states(self.stage, self.digest).clear()
        return _ref(target, kept or full)

    def adopt(self, folder: Path) -> Path:
        """Make a whole checkpoint of the stage, on the same disk, one of this store's; where it is then.

        Raises:
            OSError: the file system refused.
        """
        target = self.store.folder(self.stage, self.digest)
        files.sync_tree(folder)
        self._publish(folder, target)
        files.sync(target.parent)
        return target

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


def _ref(folder: Path, manifest: Manifest) -> CheckpointRef:
    return CheckpointRef(path=str(folder), stage=manifest.stage, digest=manifest.digest)


def _checked(folder: Path, *, content: bool) -> Manifest:
    """The manifest, once everything it says of the files is found true."""
    try:
        text = read_regular(folder / MANIFEST)
        manifest = Manifest.model_validate_json(text)
        sealed = files.is_sealed(folder / SEAL, text)
        problems = [] if sealed else [f"{MANIFEST} is not the one {SEAL} was written for"]
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


def _damaged(folder: Path, problems: list[str]) -> CheckpointError:
    stage = re.sub(r"-[0-9a-f]{16}$", "", folder.name)
    return CheckpointError(f"{folder} is damaged: {'; '.join(problems)}; delete the folder to redo {stage}")


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint, after every file has been compared with it by size and SHA-256.

    Raises:
        CheckpointError: it is no checkpoint, or files are damaged, missing or not in the manifest;
            all of them are named.
    """
    for path in (folder, folder / MANIFEST):
        if kind := special_kind(path):
            raise CheckpointError(f"{path} is {kind}, not a regular file; give the folder of a finished stage")
    if not (folder / MANIFEST).is_file():
        what = f"has no {MANIFEST}" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
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
    if path.name == "model" and not (path / MANIFEST).exists() and (path.parent / MANIFEST).is_file():
        path = path.parent
    manifest = verify(path)
    return _ref(path, manifest), manifest


def open_store(path: str | Path) -> CheckpointStore:
    """The store in that folder for a run: made if need be, leftovers of dead processes swept.

    Raises:
        ConfigError: something that is no folder is in the way.
        StoreError: the folder cannot be written, or less than 200 MB are free there.
    """
    root = look_into_store(path).root
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
            "make room there (distill gc shows what nothing needs) or give another folder with --store"
        )
    for name in _SWEPT:
        files.sweep(root / name)
    return CheckpointStore(root)


def look_into_store(path: str | Path) -> CheckpointStore:
    """The store in that folder for a look: nothing is made, written or swept, and no room is asked for.

    It need not be there. From then on this process writes nothing that everybody may write to.

    Raises:
        ConfigError: something that is no folder is in the way.
    """
    root = local_path(path, "--store").absolute()
    blocker = next((part for part in (root, *root.parents) if part.exists()), root)
    if blocker.exists() and not blocker.is_dir():
        raise ConfigError(f"--store {path}: {blocker} is a file, not a folder; give another folder or move it")
    # Libraries write here too, each in its own way; nobody else may write to what any of them leaves.
    os.umask(os.umask(0o022) | 0o002)
    return CheckpointStore(root)


@contextmanager
def store_for_look(path: str | Path) -> Iterator[CheckpointStore]:
    """As `look_into_store`, for a look at data: what is prepared goes to the cache, for the run that follows.

    Where the store cannot be written to, or has no room, the cache is a temporary folder.
    """
    store = look_into_store(path)
    there = next(part for part in (store.cache, *store.cache.parents) if part.exists())
    if os.access(there, os.W_OK | os.X_OK) and shutil.disk_usage(there).free >= _FREE_BYTES:
        with open_runs.cache_in_use(store.root):
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        store.cache = Path(folder)
        yield store
