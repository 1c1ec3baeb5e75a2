"""The tables of README.md and docs/results.md, made from the files of docs/evidence/."""

from __future__ import annotations

from pathlib import Path

from benchmarks.evidence.records import ROOT, Evidence, Line, Table
from benchmarks.methods import CONTROL, FOUR_STAGES

_NAMES = {CONTROL: "hard labels alone (control)", "soft + hard labels": "soft and hard labels"}


def readme_table(files: list[Evidence]) -> str:
    """Return README's table: for each budget the four stages beside their control and their teacher."""
    rows = [
        "| task: teacher to student | tokens | labels alone % | **four stages %** | teacher % "
        "| four stages minus labels alone | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for table in (table for file in files for table in file.tables if table.reported):
        four, control = table.line(FOUR_STAGES), table.line(CONTROL)
        assert four is not None, f"{table.title} has no line of the four stages"
        difference = "–" if four.minus_control is None else _difference(four)
        alone = "–" if control is None else f"{control.score.value:.1f}"
        rows.append(
            f"| {table.title}, {table.metric} | {_tokens(table)} | {alone} | **{four.score.value:.1f}** | "
            f"{table.teacher.value:.1f} | {difference} | {table.kept(four):.0f} % |"
        )
    return "\n".join(rows)


def results_section(files: list[Evidence]) -> str:
    """Return the tables of docs/results.md with their commands, but for those with a section of their own."""
    return "\n\n".join(_section(file) for file in files if not file.has_section)


def _section(file: Evidence) -> str:
    about = f"Commit {file.commit}, {file.date}, NUMERICS_VERSION {file.numerics}, {file.machine}."
    return "\n\n".join([f"```sh\n{file.command}\n```", about, *(_markdown(table) for table in file.tables)])


def _markdown(table: Table) -> str:
    rows = "rows" if table.reported else "held-out rows"
    seeds = "one seed" if len(table.seeds) == 1 else f"{len(table.seeds)} seeds"
    about = (
        f"{table.title}, {_tokens(table)} tokens; teacher {table.teacher.value:.1f} %, guessing {table.guessing:.1f} %"
    )
    titles = (about, f"{table.metric} %", "lowest to highest", "minus control, points", "kept", "agrees with teacher %")
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---|"]
    for line in table.lines:
        name, value = _NAMES.get(line.method, line.method), f"{line.score.value:.1f}"
        strong = "**" if line.method == FOUR_STAGES else ""
        cells = [
            f"{strong}{name}{strong}",
            f"{strong}{value}{strong}",
            f"{line.score.low:.1f} to {line.score.high:.1f}",
            "–" if line.minus_control is None else _difference(line),
            f"{table.kept(line):.1f} %",
            "–" if line.agrees is None else f"{line.agrees:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    notes = "".join(f"\n\n{note}" for note in (f"{table.rows:,} {rows}, {seeds}.", *table.notes))
    return "\n".join(lines) + notes


def _difference(line: Line) -> str:
    assert line.minus_control is not None
    shown = line.minus_control.shown("+")
    return shown.replace("(", "(seeds ") if line.ends == "seeds" else shown


def _tokens(table: Table) -> str:
    return f"{table.tokens / 1e6:.2f} M"


def pages(files: list[Evidence]) -> dict[Path, str]:
    """Return the pages with the tables of these files."""
    written = {}
    for page, name, content in (
        (ROOT / "README.md", "results", readme_table(files)),
        (ROOT / "docs" / "results.md", "evidence", results_section(files)),
    ):
        written[page] = with_part(page.read_text(encoding="utf-8"), name, content)
    return written


def with_part(text: str, name: str, content: str) -> str:
    """Return a page with other content between the marks of this name."""
    begin, end = (f"<!-- {name}:{place} -->" for place in ("begin", "end"))
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
