"""Measurements of a benchmark, as one JSON file that is kept in docs/evidence/."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from pydantic import Field

from benchmarks.output import commit
from schemas.core.base import Frozen
from stages.device.processor import processor
from stages.storage.format_versions import NUMERICS_VERSION

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "evidence"
_PLACES = {"--store", "--json", "--evidence"}


class Interval(NamedTuple):
    """A value with two ends; in percent or points."""

    value: float
    low: float
    high: float

    @classmethod
    def of_seeds(cls, values: Sequence[float]) -> Interval:
        """Return the mean with the lowest and the highest value, to four digits."""
        return cls(*(round(value, 4) for value in (fmean(values), min(values), max(values))))

    def shown(self, sign: str = "") -> str:
        """Return `83.0 (82.5 to 83.4)`; with the sign "+", differences."""
        if self.low == self.high:
            return f"{self.value:{sign}.1f}"
        return f"{self.value:{sign}.1f} ({self.low:{sign}.1f} to {self.high:{sign}.1f})"


class Line(Frozen):
    """One method of a table."""

    method: str
    score: Interval
    """Mean of the seeds, with the lowest and the highest; in percent."""
    minus_control: Interval | None = None
    """Points above the control; null for the control itself and where there was none."""
    ends: Literal["interval", "seeds"] = "interval"
    """Ends of the difference: of the 95 % interval, or the lowest and the highest seed."""
    agrees: float | None = None
    """Percent of the rows with the teacher's answer."""


class Table(Frozen):
    """Methods at one budget of one task, all of them from one command."""

    title: str
    """Task and models, such as `SST-2, 6,000 rows: MiniLM 6×384 to 4×312`."""
    metric: str
    rows: int = Field(ge=1)
    """Rows that were scored."""
    reported: bool = True
    """False for rows on which settings are chosen."""
    tokens: int = Field(ge=1)
    """Tokens of all stages together, and of each control."""
    seeds: tuple[int, ...] = Field(min_length=1)
    teacher: Interval
    """Mean of the teachers, with the lowest and the highest."""
    guessing: float
    """Percent that the best constant prediction gets."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """Sentences below the table."""

    def line(self, method: str) -> Line | None:
        """Return a method's line, or None."""
        return next((line for line in self.lines if line.method == method), None)

    def kept(self, line: Line) -> float:
        """Return how many percent of the teacher's gain over guessing a method has."""
        return 100 * (line.score.value - self.guessing) / (self.teacher.value - self.guessing)


class Evidence(Frozen):
    """One file: tables, and what is needed to make them again."""

    command: str
    commit: str
    date: str
    machine: str
    numerics: int
    """NUMERICS_VERSION."""
    has_section: bool = False
    """True if docs/results.md has a section of its own about it, so that README alone has its table."""
    tables: tuple[Table, ...]


def read_all(folder: Path = FOLDER) -> list[Evidence]:
    """Return the files of a folder, in the order of their names."""
    return [Evidence.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def write(name: str, evidence: Evidence, folder: Path = FOLDER) -> None:
    """Write a file in place of the earlier one of this name."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(evidence.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def about_this_command() -> dict[str, Any]:
    """Return what an Evidence says about the running command and its machine."""
    module, *words = sys.argv
    # Where one machine kept its files is no part of what was measured.
    kept = [word for word, before in zip(words, ["", *words], strict=False) if not {word, before} & _PLACES]
    name = Path(module).stem if Path(module).stem != "__main__" else Path(module).parent.name
    return {
        "command": f"python -m benchmarks.{name} {shlex.join(kept)}".strip(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": processor(),
        "numerics": NUMERICS_VERSION,
    }
