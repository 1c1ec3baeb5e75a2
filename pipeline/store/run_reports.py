"""The reports of a store's runs, a sealed file each: what `distill compare` shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import TypeAdapter

from pipeline.store import files
from schemas.core.errors import CheckpointError, ConfigError
from schemas.core.regular_files import read_regular
from schemas.results.manifest import CheckpointRef, RunReport
from schemas.results.report import AnyReport, TasksReport

# A recipe's name and a task's have 64 characters each; between them stands the time.
_RUN_NAME = re.compile(r"^[A-Za-z0-9][\w.\-]{0,199}$")
_ANY_REPORT: TypeAdapter[AnyReport] = TypeAdapter(AnyReport)
Report = TypeVar("Report", RunReport, TasksReport)


def write_report(root: Path, report: Report) -> Report:
    """Keep a run's report in the store `root`; the report as it is kept.

    Names go by the second, so another run may have the same one: then `-2`, `-3` and so on is added to it.

    Raises StoreError when it cannot.
    """
    path, taken = report_path(root, report.run), 1
    lock = root / "locks" / "reports.lock"
    with files.storage_errors(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            while path.exists():
                taken += 1
                path = report_path(root, f"{report.run}-{taken}")
            report = report.model_copy(update={"run": path.stem})
            text = (report.model_dump_json(indent=1) + "\n").encode("utf-8")
            seal = files.seal_of(text, path.name).encode("utf-8")
            files.write_file(_seal(path), lambda beside: _put(beside, seal))
            files.write_file(path, lambda beside: _put(beside, text))
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
        raise ConfigError(f"there is no run {name!r} in {root}; there are: {', '.join(names[:20])}")
    try:
        text = read_regular(path)
        report = _ANY_REPORT.validate_json(text)
        # Reports of versions that sealed none are believed.
        whole = not _seal(path).exists() or files.is_sealed(_seal(path), text, path.name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a run's report; delete it and run again") from error
    if not whole:
        raise CheckpointError(
            f"{path} is not as the run wrote it ({_seal(path).name} is of other content); delete it and run again"
        )
    return _where_it_is(report, root)


def list_reports(root: Path) -> list[str]:
    """Names of all reports, the newest first."""
    found = [path for path in (root / "runs").glob("*.json") if not path.name.startswith(".")]
    ordered = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return [path.stem for path in ordered]


def report_path(root: Path, name: str) -> Path:
    """The file of a run's report; raises ConfigError where the name is none of a run."""
    if not _RUN_NAME.match(name):
        raise ConfigError(f"{name!r} is no run's name; names are letters, digits, - _ and . (see `runs/`)")
    return root / "runs" / f"{name}.json"


def _seal(report: Path) -> Path:
    return report.with_suffix(".sha256")


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _where_it_is(report: AnyReport, root: Path) -> AnyReport:
    """The report of a store that may have been moved since: what lay in it lies in it still."""
    if report.store == str(root):
        return report
    was = Path(report.store)

    def moved(checkpoint: CheckpointRef) -> CheckpointRef:
        path = Path(checkpoint.path)
        if not path.is_relative_to(was):
            return checkpoint
        return checkpoint.model_copy(update={"path": str(root / path.relative_to(was))})

    return _moved(report, str(root), moved)


def _moved(report: AnyReport, store: str, moved: Callable[[CheckpointRef], CheckpointRef]) -> AnyReport:
    changes: dict[str, Any] = {"store": store}
    field = "rows" if isinstance(report, RunReport) else "shared"
    changes[field] = tuple(
        row.model_copy(update={"checkpoint": moved(row.checkpoint)}) if row.checkpoint else row
        for row in getattr(report, field)
    )
    if isinstance(report, TasksReport):
        changes["tasks"] = {name: _moved(each, store, moved) for name, each in report.tasks.items()}
    return report.model_copy(update=changes)
