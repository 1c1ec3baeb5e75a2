"""The quickstart as a newcomer runs it, with several seeds: time, memory and scores beside their marks.

    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.quickstart --seeds 0,1,2 --json quickstart.json --write

Each seed has a process and an empty store of its own, and decides the start, every stage and the teacher. Alone on the
machine, or the times mean nothing. `--write` puts what the runs printed into README.md, docs/quickstart.md and
docs/results.md, between the marks `quickstart:begin` and `quickstart:end` (`runs:begin` and `runs:end`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.evidence.pages import with_part
from benchmarks.evidence.records import Evidence, Interval, Line, Table, about_this_command, write
from benchmarks.methods import CONTROL, FOUR_STAGES
from benchmarks.output import commit, console, table_of, write_json
from pipeline.reporting.run_table import control_row, student_row, teacher_row
from pipeline.store.checkpoints import look_into_store
from schemas.results.manifest import Row, RunReport
from schemas.results.score import Score

ROOT = Path(__file__).resolve().parents[1]
MINUTES, GIB, KEPT, TIMES_FASTER = 8, 3, 98, 2
"""Marks of the quickstart: most minutes and memory, least share kept above chance and speed beside the teacher."""
_SEEDED = (
    "student.start",
    "teacher.task_model.training",
    *(f"stages.{name}.training" for name in ("general", "general_enhanced", "task_adaptive", "task_specific")),
)


@dataclass(frozen=True)
class Mark:
    """A value that the quickstart is held to."""

    value: float
    limit: float
    unit: str
    is_most: bool = False
    """True for a limit from above."""

    @property
    def is_held(self) -> bool:
        """True if the value keeps the limit."""
        return self.value <= self.limit if self.is_most else self.value >= self.limit

    def __str__(self) -> str:
        return f"{self.value:.1f}{self.unit}{'' if self.is_held else ' (missed)'}"


@dataclass(frozen=True)
class Seed:
    """One run: what it printed, what it cost, and its scores in percent and points."""

    seed: int
    rows: int
    tokens: int
    guessing: float
    seconds: float
    processor_seconds: float
    peak_gib: float
    teacher: float
    student: float
    control: float
    bag_of_words: float
    minus_teacher: tuple[float, float, float]
    """Student minus teacher with its paired 95 % interval."""
    minus_control: tuple[float, float, float]
    """Student minus the same student on labels alone, with its paired 95 % interval."""
    teacher_minus_words: tuple[float, float, float]
    """Teacher minus the bag of words, with its paired 95 % interval."""
    kept: float
    """Share of what the teacher has above chance that the student keeps."""
    times_faster: float
    """Student in torch beside its teacher, by processor time."""
    times_faster_int8: float | None
    printed: str

    def marks(self) -> dict[str, Mark]:
        """Return the promises of the quickstart, by name."""
        return {
            "minutes": Mark(self.seconds / 60, MINUTES, " min", is_most=True),
            "peak memory": Mark(self.peak_gib, GIB, " GiB", is_most=True),
            "kept above chance": Mark(self.kept, KEPT, " %"),
            "above labels alone, lower end": Mark(self.minus_control[1], 0, ""),
            "teacher above bag of words, lower end": Mark(self.teacher_minus_words[1], 0, ""),
            "times as fast in torch": Mark(self.times_faster, TIMES_FASTER, ""),
        }


def main(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
    is_kept: Annotated[bool, typer.Option("--write", help="Write the results into README.md and docs/.")] = False,
) -> None:
    """Run the quickstart once for each seed and print what it reached beside its marks."""
    results = []
    for seed in map(int, seeds.split(",")):
        results.append(run_quickstart(seed))
        console().print(results[-1].printed, highlight=False, soft_wrap=True)
        write_json(json_path, [asdict(result) for result in results])
    table = table_of("mark", *(f"seed {result.seed}" for result in results))
    for name, mark in results[0].marks().items():
        sign = "at most" if mark.is_most else "at least"
        cells = [str(result.marks()[name]) for result in results]
        table.add_row(f"{name}, {sign} {mark.limit:g}", *cells)
    console().print(table)
    if is_kept:
        write_pages(results)


def run_quickstart(seed: int) -> Seed:
    """Run the quickstart in a process and a store of its own.

    Raises:
        CalledProcessError: it failed; its messages are on the terminal.
    """
    settings = [argument for place in _SEEDED for argument in ("--set", f"{place}.seed={seed}")] if seed else []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "distill-store"
        command = [sys.executable, "-m", "pipeline", "run", "quickstart", "--store", str(store), *settings]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        report = look_into_store(store).read_report()
    assert isinstance(report, RunReport)
    return _seed(
        seed, report, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, _shown(printed, folder)
    )


def _shown(printed: str, folder: str) -> str:
    """Return the output of a run without this machine's folders."""
    printed = printed.replace(folder, "…")
    printed = re.sub(r"(side by side: \S+?#)\S+", r"\1/experiments/…", printed)
    printed = re.sub(r"\S*\.venv/bin/", ".venv/bin/", printed)
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")


def _seed(seed: int, report: RunReport, seconds: float, processor: float, peak: float, printed: str) -> Seed:
    student, teacher, control = student_row(report), teacher_row(report), control_row(report)
    words = next(row for row in report.rows if row.name == "bag_of_words")
    assert student is not None
    assert report.shipping is not None
    assert report.retained_above_chance is not None
    forms = {form.name: form.latency.times_faster for form in report.shipping.forms}
    below = _points(words.judgement.minus_teacher)
    return Seed(
        seed=seed,
        rows=report.validation_rows or 0,
        tokens=sum(row.tokens or 0 for row in report.rows if row.kind == "stage"),
        guessing=_percent_of(report.majority),
        seconds=seconds,
        processor_seconds=processor,
        peak_gib=peak,
        teacher=_percent(teacher),
        student=_percent(student),
        control=_percent(control),
        bag_of_words=_percent(words),
        minus_teacher=_points(student.judgement.minus_teacher),
        minus_control=_points(report.minus_control),
        teacher_minus_words=(-below[0], -below[2], -below[1]),
        kept=100 * report.retained_above_chance,
        times_faster=forms["student"],
        times_faster_int8=forms.get("student, ONNX int8"),
        printed=printed,
    )


def _percent(row: Row | None) -> float:
    assert row is not None
    return _percent_of(row.judgement.task_metric)


def _percent_of(score: float | None) -> float:
    assert score is not None
    return 100 * score


def _points(score: Score | None) -> tuple[float, float, float]:
    assert score is not None
    return 100 * score.value, 100 * score.low, 100 * score.high


def write_pages(results: list[Seed]) -> None:
    """Write the first run into README.md and docs/quickstart.md, all runs into docs/results.md, and their table."""
    first = results[0]
    table = first.printed.split("\n\naccuracy:")[0].split("\n", 2)[2].strip("\n")
    lines = first.printed.splitlines()
    begin = next(number for number, line in enumerate(lines) if "what you ship" in line)
    shipped = "\n".join(lines[begin:]).split("\n\n")[0]
    _replace(ROOT / "README.md", "quickstart", f"```\n{table}\n\n{shipped}\n```\n\n{_read(first)}")
    _replace(ROOT / "docs" / "quickstart.md", "quickstart", f"```\n{first.printed}\n```\n\n{_read(first)}")
    _replace(ROOT / "docs" / "results.md", "runs", _runs(results))
    write("0-quickstart", Evidence(**about_this_command(), has_section=True, tables=(table_of_seeds(results),)))


def table_of_seeds(results: list[Seed]) -> Table:
    """Return the seeds as one table: means, with the lowest and the highest seed."""
    spread = Interval.of_seeds
    lines = (
        Line(method=CONTROL, score=spread([result.control for result in results])),
        Line(
            method=FOUR_STAGES,
            score=spread([result.student for result in results]),
            minus_control=spread([result.minus_control[0] for result in results]),
            ends="seeds",
        ),
        Line(method="bag of words", score=spread([result.bag_of_words for result in results])),
    )
    first = results[0]
    return Table(
        title="Docstring pairs, 12,000 rows (`make quickstart`): MiniLM 6×384 to 3×312",
        metric="accuracy",
        rows=first.rows,
        tokens=first.tokens,
        seeds=tuple(result.seed for result in results),
        teacher=spread([result.teacher for result in results]),
        guessing=first.guessing,
        lines=lines,
        notes=(f"Of each seed: kept {', '.join(f'{result.kept:.1f} %' for result in results)}.",),
    )


def _replace(page: Path, name: str, content: str) -> None:
    page.write_text(with_part(page.read_text(encoding="utf-8"), name, content), encoding="utf-8")


def _read(result: Seed) -> str:
    """Return the sentences below the first run."""
    value, low, high = result.minus_teacher
    control, least, most = result.minus_control
    small = "" if result.times_faster_int8 is None else f", in 8-bit integers {result.times_faster_int8:.1f} times"
    text = (
        f"The student is {abs(value):.1f} points {'below' if value < 0 else 'above'} its teacher (95 % interval "
        f"{low:+.1f} to {high:+.1f}), and keeps {result.kept:.1f} % of what the teacher has above guessing. **It is "
        f"{control:.1f} points above the same student, cut out of the same teacher and trained on the labels alone for "
        f"as many tokens** ({least:+.1f} to {most:+.1f}). It answers {result.times_faster:.1f} times as fast as its "
        f"teacher in torch{small}."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _runs(results: list[Seed]) -> str:
    def interval(difference: tuple[float, float, float]) -> str:
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference)

    rows = {
        "teacher, accuracy %": [f"{result.teacher:.1f}" for result in results],
        "**student, four stages**": [f"**{result.student:.1f}**" for result in results],
        "same student, labels alone": [f"{result.control:.1f}" for result in results],
        "bag of words": [f"{result.bag_of_words:.1f}" for result in results],
        "student minus teacher": [interval(result.minus_teacher) for result in results],
        "student minus labels alone": [interval(result.minus_control) for result in results],
        "teacher minus bag of words": [interval(result.teacher_minus_words) for result in results],
        f"kept above chance, mark {KEPT} %": [f"{result.kept:.1f} %" for result in results],
        f"times as fast in torch, mark {TIMES_FASTER}": [f"{result.times_faster:.1f}" for result in results],
        f"wall time, mark {MINUTES} min": [
            f"{result.seconds // 60:.0f} min {result.seconds % 60:.0f} s" for result in results
        ],
        "processor time": [f"{result.processor_seconds / 60:.1f} min" for result in results],
        f"peak memory, mark {GIB} GiB": [f"{result.peak_gib:.2f} GiB" for result in results],
    }
    head = f"| | {' | '.join(f'seed {result.seed}' for result in results)} |\n|---|{'---|' * len(results)}\n"
    body = "\n".join(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())
    processor = os.environ.get("ONEDNN_MAX_CPU_ISA", "as it is")
    about = (
        f"Commit {commit()}, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, `ONEDNN_MAX_CPU_ISA`: {processor}."
    )
    tables = "\n\n".join(f"Seed {result.seed}:\n\n```\n{result.printed}\n```" for result in results)
    return f"{about}\n\n{head}{body}\n\n{tables}"


if __name__ == "__main__":
    typer.run(main)
