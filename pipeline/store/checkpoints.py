"""The checkpoint store: the only writer of checkpoints, and the judge of whether a stage is finished.

A checkpoint exists when its manifest does, in a folder that appeared by one rename. The manifest lists size and SHA-256
of every file; `manifest.sha256` beside it (readable by `sha256sum -c`) covers the manifest, which holds the metrics.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.store import kept_evaluations, open_runs, run_reports
from pipeline.store.files import storage_errors, write_file
from pipeline.store.remote import remote_of
from pipeline.store.remote_states import RemoteStates
from pipeline.store.states import FolderStates
from schemas.core.errors import CheckpointError, ConfigError, StoreError
from schemas.core.paths import local_path
from schemas.core.regular_files import read_regular, special_kind
from schemas.recipe.stage import StageName
from schemas.results.manifest import CheckpointRef, Judgement, Manifest
from schemas.results.report import AnyReport
from stages.storage import sealed_folder
from stages.storage.sealed_folder import MANIFEST, MANIFEST_SEAL, move_away

log = logging.getLogger(__name__)

_FOLDER_NAME = re.compile(r"(\w+)-([0-9a-f]{16})")
_FREE_BYTES = 200_000_000
_SWEPT = ("checkpoints", "states", "evaluations", "runs", "points")
_FOLDERS = (*_SWEPT, "cache", "locks", open_runs.FOLDER)


class CheckpointStore:
    """Checkpoints, states, evaluations and reports under one folder; made by `open_store` or `look_into_store`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        """Tokenised data; may be emptied at any time."""
        self.points = root / "points"
        """Metrics of every run, one JSONL file each."""
        self.remote = remote_of(root)
        """The object store that this one is a local copy of; None for a store of its own."""

    def folder(self, stage: StageName, digest: str) -> Path:
        """The folder of that stage's checkpoint, whether it exists or not."""
        return run_reports.checkpoint_folder(self.root, stage, digest)

    def is_there(self, name: str) -> bool:
        """Return whether the checkpoint folder `STAGE-DIGEST16` has a manifest; its files are not read."""
        return (self.root / "checkpoints" / name / MANIFEST).is_file()

    def find(self, stage: StageName, digest: str) -> tuple[CheckpointRef, Manifest] | None:
        """The finished stage of that digest, or None; compares sizes, not content.

        Raises:
            CheckpointError: it is damaged; the message names the file and the remedy.
        """
        folder = self.folder(stage, digest)
        if not (folder / MANIFEST).is_file() and not self.fetch(stage, digest):
            if folder.exists():
                log.info("%s has no %s, so it is no checkpoint; it is ignored", folder, MANIFEST)
            return None
        manifest = _checked(folder, content=False)
        if (manifest.stage, manifest.digest) != (stage, digest):
            raise CheckpointError(
                f"{folder} holds {manifest.stage} of digest {manifest.digest[:16]}, not {stage} of "
                f"{digest[:16]}; it was moved or renamed: delete the folder to redo {stage}"
            )
        return _ref(folder, manifest), manifest

    def fetch(self, stage: str, digest: str) -> bool:
        """Fetch a checkpoint from the object store, if there is one; return whether it is here now."""
        if self.remote is None:
            return False
        target = run_reports.checkpoint_folder(self.root, stage, digest)
        with storage_errors(target.parent), sealed_folder.unfinished(target.parent) as folder:
            if not self.remote.fetch_checkpoint(target.name, folder):
                return False
            sealed_folder.sync_tree(folder)
            sealed_folder.publish(
                folder, target, lambda existing: not (existing / MANIFEST).is_file() and move_away(existing)
            )
        log.info("fetched %s from %s", target.name, self.remote.address)
        return True

    def sending(self, key: str) -> AbstractContextManager[None]:
        """Send what the block writes to the object store, if there is one."""
        return nullcontext() if self.remote is None else self.remote.sending(key)

    def folder_of(self, stage: StageName, digest: str) -> Path:
        """The folder of a finished stage.

        Raises:
            CheckpointError: the store does not have it, or it is damaged.
        """
        match = self.find(stage, digest)
        if match is None:
            raise CheckpointError(
                f"{self.root} has no checkpoint of {stage} {digest[:16]}; name the store that has it with --store, or "
                "run again to make it"
            )
        return Path(match[0].path)

    def writer(self, stage: StageName, digest: str) -> FolderWriter:
        """A `stages.ports.protocols.CheckpointWriter` for that stage."""
        return FolderWriter(self, stage, digest)

    def states(self, stage: StageName, digest: str, needs: Iterable[str] = ()) -> FolderStates:
        """A `stages.ports.protocols.StateStore` for that stage, which reads the stages of the digests `needs`."""
        folder = self.root / "states" / f"{stage}-{digest[:16]}"
        remote = None if self.remote is None else RemoteStates(self.remote, folder.name)
        return FolderStates(folder, stage, digest, needs, remote)

    @contextmanager
    def lock(self, stage: StageName, digest: str) -> Iterator[None]:
        """Lock the stage for this process; waits, with a warning, while another process runs it.

        The operating system frees the lock when its holder dies. After waiting, call `find` again.
        """
        path = self.root / "locks" / f"{stage}-{digest[:16]}.lock"
        with storage_errors(path.parent):
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
        """The kept evaluation of that digest; None where there is none, or it has changed since it was written."""
        path = self._evaluation(digest)
        if self.remote is not None and not path.exists():
            content = self.remote.fetch_document(f"evaluations/{digest}")
            if content is not None:
                write_file(path, content)
        return kept_evaluations.read_judgement(path, digest)

    def write_judgement(self, digest: str, judgement: Judgement) -> None:
        """Keep an evaluation under its digest; raises StoreError when the file system refuses."""
        with self.sending(f"evaluations/{digest}"):
            kept_evaluations.write_judgement(self._evaluation(digest), digest, judgement)

    def _evaluation(self, digest: str) -> Path:
        assert re.fullmatch(r"[0-9a-f]+", digest), digest
        return self.root / "evaluations" / f"{digest}.json"

    def write_report(self, report: run_reports.Report) -> run_reports.Report:
        """Keep a run's report; see `run_reports.write_report`."""
        report = run_reports.write_report(self.root, report)
        with self.sending(f"runs/{report.run}"):
            return report

    def read_report(self, name: str | None = None) -> AnyReport:
        """The report of that name, or the newest; see `run_reports.read_report`."""
        self._fetch_reports()
        return run_reports.read_report(self.root, name)

    def list_reports(self) -> list[str]:
        """Names of all reports, the newest first."""
        self._fetch_reports()
        return run_reports.list_reports(self.root)

    def _fetch_reports(self) -> None:
        """Fetch the reports of other machines, so that commands show them."""
        if self.remote is not None:
            missing = (key for key in self.remote.list_reports() if not run_reports.is_kept(self.root, key))
            for key in missing:
                if (content := self.remote.fetch_document(key)) is not None:
                    run_reports.keep_report(self.root, key, content)


@dataclass(frozen=True)
class FolderWriter:
    """Writes the checkpoint of one stage; a `stages.ports.protocols.CheckpointWriter`."""

    store: CheckpointStore
    stage: StageName
    digest: str

    def commit(self, manifest: Manifest, write: Callable[[Path], None]) -> CheckpointRef:
        """Let `write` fill a folder, make it a checkpoint in one rename, and remove the stage's states.

        If another process has finished the same stage first, its checkpoint stays and this one is dropped.

        Raises:
            StoreError: the file system refused; nothing unfinished is left.
        """
        assert (manifest.stage, manifest.digest) == (self.stage, self.digest), "manifest of another stage"
        target = self.store.folder(self.stage, self.digest)
        with (
            self.store.sending(f"checkpoints/{target.name}"),
            storage_errors(target.parent),
            sealed_folder.unfinished(target.parent) as folder,
        ):
            write(folder)
            complete = manifest.model_copy(update={"files": sealed_folder.measure(folder)})
            sealed_folder.write_manifest(folder, complete)
            self.adopt(folder)
        self.store.states(self.stage, self.digest).clear()
        return _ref(target, manifest)

    def folder_of(self, stage: StageName, digest: str) -> Path:
        """The folder of a finished stage; see `CheckpointStore.folder_of`."""
        return self.store.folder_of(stage, digest)

    def adopt(self, folder: Path) -> Path:
        """Move a whole checkpoint of the stage, on the same disk, into this store; returns its new folder.

        Raises:
            OSError: the file system refused.
        """
        target = self.store.folder(self.stage, self.digest)
        sealed_folder.sync_tree(folder)
        sealed_folder.publish(folder, target, self._make_way)
        return target

    def _make_way(self, target: Path) -> bool:
        try:
            manifest = verify(target)
            if (manifest.stage, manifest.digest) == (self.stage, self.digest):
                log.info("%s was finished by another process and is kept", target)
                return False
            reason = "it belongs to another stage"
        except CheckpointError as error:
            reason = str(error)
        aside = target.with_name(f".damaged-{target.name}-{os.urandom(4).hex()}")
        os.replace(target, aside)
        log.warning("moved %s aside to %s: %s", target.name, aside, reason)
        return True


def _ref(folder: Path, manifest: Manifest) -> CheckpointRef:
    return CheckpointRef(path=str(folder), stage=manifest.stage, digest=manifest.digest)


def _checked(folder: Path, *, content: bool) -> Manifest:
    """The manifest of a folder whose files are as it lists them; raises CheckpointError otherwise."""
    stage = re.sub(r"-[0-9a-f]{16}$", "", folder.name)
    remedy = f"delete the folder to redo {stage}"
    try:
        text = read_regular(folder / MANIFEST)
        manifest = Manifest.model_validate_json(text)
        is_sealed = sealed_folder.is_sealed(folder / MANIFEST_SEAL, text)
        problems = [] if is_sealed else [f"{MANIFEST} is not the one {MANIFEST_SEAL} was written for"]
        problems += sealed_folder.differences(folder, manifest.files, content=content)
        if content:
            extra = set(sealed_folder.files_in(folder)) - set(manifest.files) - {MANIFEST, MANIFEST_SEAL}
            problems += [f"{name} is not in its manifest" for name in sorted(extra)]
    except (OSError, ValueError) as error:
        name = Path(str(getattr(error, "filename", None) or MANIFEST)).name
        raise CheckpointError(f"{folder} is damaged: {name} cannot be read; {remedy}") from error
    if problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}; {remedy}")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint, after comparing every file with it by size and SHA-256.

    Raises:
        CheckpointError: it is no checkpoint, or files are damaged, missing or not in the manifest; all are named.
    """
    for path in (folder, folder / MANIFEST):
        if kind := special_kind(path):
            raise CheckpointError(f"{path} is {kind}, not a regular file; give the folder of a finished stage")
    if not (folder / MANIFEST).is_file():
        problem = f"has no {MANIFEST}" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder} {problem}; expected the folder of a finished stage, such as "
            f"STORE/checkpoints/general-0123456789abcdef, with {MANIFEST} in it"
        )
    return _checked(folder, content=True)


def open_checkpoint(folder: str | Path) -> tuple[CheckpointRef, Manifest]:
    """A checkpoint that the user named, every file verified; its `model/` folder is accepted for it.

    Raises:
        CheckpointError: it is no checkpoint, or it is damaged.
    """
    path = local_path(folder, "CHECKPOINT").resolve()
    if not path.exists() and (match := _FOLDER_NAME.fullmatch(path.name)) and path.parent.name == "checkpoints":
        CheckpointStore(path.parent.parent).fetch(match[1], match[2])
    if path.name == "model" and not (path / MANIFEST).exists() and (path.parent / MANIFEST).is_file():
        path = path.parent
    manifest = verify(path)
    return _ref(path, manifest), manifest


def open_store(path: str | Path) -> CheckpointStore:
    """The store in that folder for a run: created if need be, leftovers of dead processes removed.

    Raises:
        ConfigError: the path leads through a file.
        StoreError: the folder cannot be written, or less than 200 MB are free there.
    """
    store = look_into_store(path)
    root = store.root
    with storage_errors(root):
        for name in _FOLDERS:
            sealed_folder.make_folder(root / name)
        with tempfile.TemporaryFile(dir=root / "checkpoints") as probe:
            probe.write(b"distill")
        free = shutil.disk_usage(root).free
    if free < _FREE_BYTES:
        raise StoreError(
            f"{root} has {free / 1e6:.0f} MB free, and a run needs at least {_FREE_BYTES / 1e6:.0f} MB; make room "
            "there (distill gc lists what can be removed) or give another folder with --store"
        )
    for name in _SWEPT:
        sealed_folder.sweep(root / name)
    if store.remote is not None:
        store.remote.check()
    return store


def look_into_store(path: str | Path) -> CheckpointStore:
    """The store in that folder for reading: nothing is created or removed, and it need not exist.

    From then on this process writes no file that everybody may write to.

    Raises:
        ConfigError: the path leads through a file.
    """
    root = local_path(path, "--store").absolute()
    blocker = next((part for part in (root, *root.parents) if part.exists()), root)
    if blocker.exists() and not blocker.is_dir():
        raise ConfigError(f"--store {path}: {blocker} is a file, not a folder; give another folder or move it")
    # Libraries write here too, each in its way; nobody else may write to their files either.
    os.umask(os.umask(0o022) | 0o002)
    return CheckpointStore(root)


@contextmanager
def store_for_look(path: str | Path) -> Iterator[CheckpointStore]:
    """Open a store for a look at data, whose preparation is cached for the run that follows.

    Where the store cannot be written to, or has no room, the cache is a temporary folder.
    """
    store = look_into_store(path)
    existing = next(part for part in (store.cache, *store.cache.parents) if part.exists())
    if os.access(existing, os.W_OK | os.X_OK) and shutil.disk_usage(existing).free >= _FREE_BYTES:
        with open_runs.cache_in_use(store.root):
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        store.cache = Path(folder)
        yield store
