"""Reports of a store's runs, one sealed file each, as `distill compare` shows them."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import TypeAdapter

from pipeline.store.files import storage_errors, write_file
from schemas.core.errors import CheckpointError, ConfigError
from schemas.core.regular_files import read_regular
from schemas.core.wording import suggestion
from schemas.results.manifest import Row, RunReport
from schemas.results.report import AnyReport, GroupReport
from stages.storage.sealed_folder import is_sealed, seal_of

# The names of a recipe and of a task have 64 characters each, with the time between them.
_RUN_NAME = re.compile(r"^[A-Za-z0-9][\w.\-]{0,199}$")
_ANY_REPORT: TypeAdapter[AnyReport] = TypeAdapter(AnyReport)
Report = TypeVar("Report", RunReport, GroupReport)


def write_report(root: Path, report: Report) -> Report:
    """Keep a run's report in the store `root`; returns it with the name under which it is kept.

    Names have the time in seconds, so that two runs may have the same one: then `-2`, `-3` and so on is appended.

    Raises:
        StoreError: the file system refused.
    """
    path, number = report_path(root, report.run), 1
    lock = root / "locks" / "reports.lock"
    with storage_errors(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            while path.exists():
                number += 1
                path = report_path(root, f"{report.run}-{number}")
            report = report.model_copy(update={"run": path.stem})
            text = (report.model_dump_json(indent=1) + "\n").encode("utf-8")
            write_file(_seal(path), seal_of(text, path.name).encode("utf-8"))
            write_file(path, text)
    return report


def read_report(root: Path, name: str | None = None) -> AnyReport:
    """The report of that name, or the newest, with the paths that the store has now.

    Raises:
        ConfigError: there is none of that name; the message lists those there are.
        CheckpointError: the file is damaged, or was changed.
    """
    names = list_reports(root)
    if not names:
        raise ConfigError(f"{root} holds no finished run; start one with `distill run RECIPE`")
    if name is None:
        name = names[0]
    path = report_path(root, name)
    if name not in names:
        hint = suggestion(name, names)
        raise ConfigError(
            f"there is no run {name!r} in {root}{hint}; the newest are {', '.join(names[:5])}; all: distill runs"
        )
    try:
        text = read_regular(path)
        report = _ANY_REPORT.validate_json(text)
        # Reports of versions without a seal are accepted.
        is_unchanged = not _seal(path).exists() or is_sealed(_seal(path), text, path.name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a run's report; delete it and run again") from error
    if not is_unchanged:
        raise CheckpointError(
            f"{path} is not as the run wrote it ({_seal(path).name} is of other content); delete it and run again"
        )
    return relocated(report, root)


def list_reports(root: Path) -> list[str]:
    """Names of all reports, the newest first."""
    paths = [path for path in (root / "runs").glob("*.json") if not path.name.startswith(".")]
    return [path.stem for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)]


def is_kept(root: Path, key: str) -> bool:
    """Return whether the store `root` has the report that an object store keeps as `runs/NAME-SHA8`."""
    name, _, sha256 = key.removeprefix("runs/").rpartition("-")
    files = [root / "runs" / f"{name}.sha256", root / "runs" / f"{name}-{sha256}.sha256"]
    return any(file.is_file() and file.read_text(encoding="utf-8").startswith(sha256) for file in files)


def keep_report(root: Path, key: str, content: bytes) -> None:
    """Keep the report of another machine, under a longer name where this one has a run of the same name."""
    name, _, sha256 = key.removeprefix("runs/").rpartition("-")
    path = report_path(root, name)
    if path.exists():
        path = report_path(root, f"{name}-{sha256}")
    write_file(_seal(path), seal_of(content, path.name).encode("utf-8"))
    write_file(path, content)
    if match := re.search(r"-(\d{8}-\d{6})\b", name):  # reports are listed by time
        with suppress(ValueError):
            when = time.mktime(time.strptime(match[1], "%Y%m%d-%H%M%S"))
            os.utime(path, (when, when))


def report_path(root: Path, name: str) -> Path:
    """The file of a run's report; raises ConfigError for a name that no run has."""
    if not _RUN_NAME.match(name):
        raise ConfigError(f"{name!r} is no run's name; names are letters, digits, - _ and . (see `runs/`)")
    return root / "runs" / f"{name}.json"


def checkpoint_folder(root: Path, stage: str, digest: str) -> Path:
    """The folder of a stage's checkpoint in the store `root`, whether it exists or not."""
    return root / "checkpoints" / f"{stage}-{digest[:16]}"


def _seal(report: Path) -> Path:
    return report.with_suffix(".sha256")


def relocated(report: AnyReport, root: Path) -> AnyReport:
    """The report with the paths that its checkpoints have now, wherever the store was when it was written."""

    def moved(row: Row) -> Row:
        if (checkpoint := row.checkpoint) is None:
            return row
        path = str(checkpoint_folder(root, checkpoint.stage, checkpoint.digest))
        return row.model_copy(update={"checkpoint": checkpoint.model_copy(update={"path": path})})

    changes: dict[str, Any] = {"store": str(root)}
    if isinstance(report, RunReport):
        changes["rows"] = tuple(map(moved, report.rows))
        if report.shipping is not None and report.shipping.python is not None:  # a program that names its model
            program = report.shipping.python.replace(_in_json(report.store), _in_json(str(root)))
            changes["shipping"] = report.shipping.model_copy(update={"python": program})
    else:
        changes["shared"] = tuple(map(moved, report.shared))
        changes["tasks"] = {name: relocated(task_report, root) for name, task_report in report.tasks.items()}
    return report.model_copy(update=changes)


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
