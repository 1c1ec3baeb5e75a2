"""One value for every table of results, and its three renderings: for a terminal, as Markdown, and as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pipeline.process.terminal import safe, shown

_ENDLESS = 100_000
Emphasis = Literal["", "bold", "dim", "red"]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    """Header in Markdown, and key of records."""
    heading: str | None = None
    """Header in a terminal; None for the name."""
    is_text: bool = False
    """Text is aligned to the left, numbers to the right."""
    wraps: bool = False
    """True if a terminal may break cells that are too long for it."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    cells: tuple[str, ...]
    """Texts in the order of the columns."""
    emphasis: Emphasis = ""
    """Style of the row in a terminal."""
    ends_section: bool = False
    """True if a terminal draws a line below it."""


@dataclass(frozen=True)
class ResultTable:
    """A table of results, however it is shown."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    title: str = ""


def as_terminal(table: ResultTable) -> RenderableType:
    """Render the table for a terminal, its cells escaped; where it is too wide, cells break between words."""
    return _Fitting(table)


@dataclass(frozen=True)
class _Fitting:
    """A table in one of three forms: as it is, with broken cells, or a line per cell in a window that is too narrow."""

    table: ResultTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for narrow in (False, True):
            rendered = _rendered(self.table, narrow=narrow)
            # Of columns that break, the least width is that of their longest words.
            if console.measure(rendered, options=options.update(max_width=_ENDLESS))[not narrow] <= options.max_width:
                yield rendered
                return
        yield shown(self.table.title, "bold")
        for row in self.table.rows:
            for column, cell in zip(self.table.columns, row.cells, strict=True):
                yield shown(f"{column.name}: {cell}", row.emphasis)
            yield Text()


def _rendered(table: ResultTable, *, narrow: bool) -> Table:
    rendered = Table(
        title=shown(table.title) if table.title else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for index, column in enumerate(table.columns):
        heading = column.name if column.heading is None else column.heading
        words = " ".join([heading, *(row.cells[index] for row in table.rows)]).split()
        wraps = narrow or column.wraps
        rendered.add_column(
            shown(heading),
            justify="left" if column.is_text else "right",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
            min_width=max(map(cell_len, map(safe, words)), default=0) if narrow and not column.wraps else None,
        )
    for row in table.rows:
        rendered.add_row(*map(shown, row.cells), style=row.emphasis or None, end_section=row.ends_section)
    return rendered


def as_markdown(table: ResultTable, lines: Sequence[str] = ()) -> str:
    """Render the table in Markdown, with the lines below it as a list."""
    header = [column.name.replace("|", r"\|") for column in table.columns]
    rendered = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    rendered += [f"| {' | '.join(row.cells)} |" for row in table.rows]
    return "\n".join([*rendered, "", *(f"- {line}" for line in lines)])


def as_records(table: ResultTable) -> list[dict[str, str]]:
    """Render the rows as mappings of column names to texts, as a Prefect table artifact holds them."""
    names = [column.name for column in table.columns]
    return [dict(zip(names, row.cells, strict=True)) for row in table.rows]
