"""A run's closing table: for the terminal, for Prefect and MLflow, and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.process.terminal import add_row, say, shown
from schemas.core.metrics import ABOUT_ONE_CLASS, titled
from schemas.data.cards import DataCard
from schemas.results.manifest import Judgement, Row, RunReport, Score, Size, TeacherReport

NAMES = {"hard_label_baseline": "hard labels only", "bag_of_words": "bag of words"}
COLUMNS = ("", "probe", "latent", "task metric", "agreement", "tokens", "time", "")


def percent(value: float | None) -> str:
    """`0.876` as `87.6`; a dash where there is nothing."""
    return "–" if value is None else f"{100 * value:.1f}"


def amount(value: int | None) -> str:
    """Tokens, rounded for reading: `2.5 M`, `300 k`."""
    if value is None:
        return "–"
    if value >= 1_000_000:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.0f} k" if value >= 1000 else str(value)


def duration(seconds: float | None) -> str:
    """Seconds as `75 s`, `12.5 min`, `2.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def cells(row: Row) -> tuple[str, ...]:
    """One row's texts, in the order of COLUMNS."""
    scores = row.judgement
    latent = "–" if scores.latent_loss is None else f"{scores.latent_loss:.4g}"
    name = NAMES.get(row.name, row.name)
    status = ["chosen"] if row.candidate and row.chosen else []
    status += [] if row.status == "ran" else [row.status]
    return (
        f"{name} ({row.candidate})" if row.candidate else name,
        percent(scores.probed),
        latent,
        percent(scores.task_metric),
        percent(scores.agreement),
        amount(row.tokens),
        duration(row.seconds),
        ", ".join(status),
    )


def named(column: str, report: RunReport) -> str:
    """A column's name in one report: that of the task's metric is its own."""
    return report.metric_title if column == "task metric" else column


def is_subset(scored: int | None, of: int | None) -> bool:
    """Whether not all of some validation rows are scored."""
    return scored is not None and of is not None and scored < of


def rows_of(scored: int | None, of: int | None) -> str:
    """How many rows are scored, in words: `872 rows`, `2,000 of 9,815 rows`."""
    if scored is None:
        return "no rows"
    return f"{scored:,} of {of:,} rows" if is_subset(scored, of) else f"{scored:,} rows"


def score_tags(positive_label: str | None, rows: str) -> dict[str, str]:
    """Tags that say what the scores of an MLflow run are of: their names are the same in every run.

    Args:
        positive_label: the class that F1 is about; None where it is about none.
        rows: how many rows are scored, in words.
    """
    of = {} if positive_label is None else {"distill.f1_of": positive_label}
    return of | {"distill.validation_rows": rows}


def as_table(report: RunReport) -> Table:
    """The report's rows for a terminal."""
    title = f"{report.recipe} on {report.task or 'general text'}"
    if is_subset(report.validation_rows, report.validation_rows_of):
        title += f", {rows_of(report.validation_rows, report.validation_rows_of)}"
    table = Table(title=shown(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        metric = report.metric_title
        label = {"task metric": metric, "agreement": "agrees"}.get(name, name)
        label += " %" if name in ("probe", "task metric", "agreement") else ""
        table.add_column(shown(label), justify="right" if name else "left", no_wrap=True)
    # Candidates have a table of their own.
    rows = [row.model_copy(update={"candidate": None}) for row in report.rows if row.chosen]
    for index, row in enumerate(rows):
        following = rows[index + 1] if index + 1 < len(rows) else None
        last_of_kind = following is not None and following.kind != row.kind
        style = "bold" if row.name == "task_specific" else "dim" if row.kind == "baseline" else None
        add_row(table, cells(row), style=style, end_section=last_of_kind)
    return table


def as_markdown(report: RunReport) -> str:
    """The same table in Markdown, with the closing lines."""
    header = [named(name, report).replace("|", r"\|") or " " for name in COLUMNS]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in report.rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(report))])


def as_records(report: RunReport) -> list[dict[str, str]]:
    """The rows for a Prefect table artifact."""
    names = [named(name, report) or ("stage" if index == 0 else "status") for index, name in enumerate(COLUMNS)]
    return [dict(zip(names, cells(row), strict=True)) for row in report.rows]


def size_lines(size: Size) -> list[str]:
    """Parameters, operations and speed in words."""
    lines = [
        f"parameters: student {size.student_parameters / 1e6:.2f} M, teacher {size.teacher_parameters / 1e6:.2f} M "
        f"({size.teacher_parameters / size.student_parameters:.1f} times fewer)",
        f"encoder operations at length 128: student {size.student_flops / 1e9:.2f} G, teacher "
        f"{size.teacher_flops / 1e9:.2f} G ({100 * size.student_flops / size.teacher_flops:.0f} %)",
    ]
    if size.speed_up is not None:
        lines.append(
            f"speed: {size.speed_up:.2f} times the teacher's (rounds from {size.speed_up_low:.2f} to "
            f"{size.speed_up_high:.2f}; {size.speed_up_sequences} sequences of {size.speed_up_length} tokens, fp32, "
            "this machine)"
        )
    return lines


def student_row(report: RunReport) -> Row | None:
    """The finished student: the last stage."""
    return next((row for row in reversed(report.rows) if row.kind == "stage"), None)


def teacher_row(report: RunReport) -> Row | None:
    """The teacher's line; of several that were tried, the chosen one's."""
    return next((row for row in report.rows if row.kind == "teacher" and row.chosen), None)


def summary(report: RunReport) -> list[str]:
    """The closing lines under the table."""
    lines: list[str] = []
    student, teacher = student_row(report), teacher_row(report)
    if student and teacher and report.retained is not None:
        lines.append(
            f"{report.metric_title}: student {percent(student.judgement.task_metric)} %, teacher "
            f"{percent(teacher.judgement.task_metric)} %: {percent(report.retained)} % retained"
            + _above_chance(report.majority, report.retained_above_chance)
        )
        lines += _difference_lines(student.judgement)
    for row in (student, teacher):
        if row and report.validation_rows:
            lines += _score_lines(row, report)
    lines += _guessing_lines(report)
    lines += [teacher_line(each) for each in report.teachers if each.verdict != "good"]
    if report.data is not None:
        lines += card_lines(report.data)
    if report.size is not None:
        lines += size_lines(report.size)
    if student and student.checkpoint:
        lines.append(f"checkpoint: {student.checkpoint.path}")
    lines.append(f"time: {duration(report.seconds)}")
    return lines


def _above_chance(guessed: float | None, share: float | None) -> str:
    """What of a teacher's score above guessing was retained; alone the share of the score itself flatters."""
    if guessed is None:
        return ""
    kept = "the teacher is not above it" if share is None else f"{percent(share)} %"
    return f"; above chance ({percent(guessed)} %): {kept}"


def _guessing_lines(report: RunReport) -> list[str]:
    """What the best constant answer gets by each score, and what the student retained above that by further ones."""

    def listed(shares: Mapping[str, float]) -> str:
        return ", ".join(
            f"{titled(metric, report.positive_label if metric in ABOUT_ONE_CLASS else None)} {percent(share)} %"
            for metric, share in shares.items()
        )

    lines = []
    if report.guessed:
        lines.append(f"guessing, by the best constant answer: {listed(report.guessed)}")
    others = {key: share for key, share in report.gains_retained.items() if key != report.metric}
    if others:
        lines.append(f"retained above guessing by further scores: {listed(others)}")
    return lines


def _difference_lines(judgement: Judgement) -> list[str]:
    """How far the student is from its teacher, by draws of the same rows: what two intervals side by side hide."""
    lines = []
    if (found := judgement.minus_teacher) is not None:
        value, low, high = (f"{100 * each:+.1f}" for each in (found.value, found.low, found.high))
        lines.append(f"student minus teacher: {value} points (95 % interval {low} to {high}, on the same rows)")
    if judgement.agreement is not None and judgement.agreement_guessed is not None:
        lines.append(
            f"student agrees with teacher: {percent(judgement.agreement)} % (the best constant answer: "
            f"{percent(judgement.agreement_guessed)} %)"
        )
    return lines


def _score_lines(row: Row, report: RunReport) -> list[str]:
    """A model's scores with their intervals: on all rows, on those not in train, on further validation rows."""
    judgement = row.judgement
    lines = []
    if judgement.scores:
        rows = rows_of(report.validation_rows, report.validation_rows_of)
        lines.append(f"{row.name}: {_scored(judgement.scores)} ({rows}, 95 % intervals)")
    if judgement.unseen_scores:
        scored = _scored(judgement.unseen_scores)
        lines.append(f"{row.name}, the {judgement.unseen_rows:,} rows not in train: {scored}")
    for name, scores in judgement.further.items():
        rows = rows_of(*report.further_rows.get(name, (None, None)))
        counted = f" ({rows})" if name in report.further_rows else ""
        lines.append(f"{row.name}, {name}: {_scored(scores)}{counted}")
    return lines


def _scored(scores: Mapping[str, Score]) -> str:
    return ", ".join(
        f"{titled(name, score.of)} {percent(score.value)} % ({percent(score.low)} to {percent(score.high)})"
        for name, score in scores.items()
    ) + "".join(f"; {note}" for note in notes_on(scores))


def notes_on(scores: Mapping[str, Score]) -> list[str]:
    """Why some of a model's scores say nothing of it, each reason once."""
    return list(dict.fromkeys(score.note for score in scores.values() if score.note))


def card_lines(card: DataCard) -> list[str]:
    """What is read, in a line for each split of the task and for the corpus."""
    lines = [*(card.task.remarks if card.task else ()), *(card.corpus.remarks if card.corpus else ())]
    for name, split in card.task.splits.items() if card.task else ():
        odd = {
            "repeated": split.duplicates,
            "with several labels": split.contradictions,
            "also in train": split.in_train,
            "cut off": split.cut,
            "left out for want of a text or a label": split.dropped,
        }
        found = ", ".join(f"{number:,} {what}" for what, number in odd.items() if number)
        lines.append(
            f"{name}: {split.rows:,} rows, {amount(split.tokens)} tokens, half of {split.lengths.median} or fewer, "
            f"longest {split.lengths.longest}; {found or 'none repeated, cut off or known'}"
        )
    if card.corpus is not None:
        train = sum(source.train for source in card.corpus.sources)
        gone = sum(source.duplicates + source.near_duplicates for source in card.corpus.sources)
        line = f"corpus: {train:,} rows, {gone:,} repeated ones left out"
        if card.leaks is not None:
            line += f"; {card.leaks.rows:,} hold one of {card.leaks.texts:,} validation texts of the task"
        lines.append(line)
    return lines


def teacher_line(report: TeacherReport) -> str:
    """Whether a teacher is good enough, and why, in one line."""
    low, high = percent(report.score.low), percent(report.score.high)
    parts = [
        f"{titled(report.metric, report.score.of)} {percent(report.score.value)} % (95 % interval {low} to {high})",
        f"guessing {percent(report.guess)} %",
    ]
    if report.bag_of_words is not None:
        parts.append(f"bag of words {percent(report.bag_of_words)} %")
    if report.label_order == "reordered":
        parts.append("outputs put into the order of the task's labels by name")
    if report.label_order == "unnamed":
        parts.append("outputs without names, taken in the order of the task's labels")
    return f"{report.name}: {report.verdict}: {', '.join(parts)}; {report.reason}"


def candidates_table(report: RunReport) -> Table | None:
    """The teachers that were tried, for a terminal; None where there was nothing to choose."""
    tried = [row for row in report.rows if row.candidate is not None]
    if not tried:
        return None
    table = Table(title="candidates for the teacher", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    chosen_by = next((row.candidate_metric for row in tried if row.candidate_metric), "")
    for name in (f"chosen by {chosen_by}".rstrip(), f"{report.metric_title} %", "tokens", "time"):
        table.add_column(shown(name), justify="right", no_wrap=True)
    table.add_column("")
    for row in tried:
        name, _, _, metric, _, tokens, time, status = cells(row)
        score = "–" if row.candidate_score is None else f"{row.candidate_score:.4f}"
        add_row(table, (name, score, metric, tokens, time, status))
    return table


def overlay_link(report: RunReport, server: str) -> str | None:
    """Address of the page of MLflow's UI that lays the stages' training losses over each other.

    Args:
        report: the run.
        server: address of the UI, such as `http://127.0.0.1:5000`.
    """
    runs = [row.mlflow_run_id for row in report.rows if row.kind == "stage" and row.mlflow_run_id]
    return overlay_address(runs, report.mlflow_experiment_id, server)


def overlay_address(runs: list[str], experiment: str | None, server: str) -> str | None:
    """Address of the page that lays the training losses of these runs over each other; None without runs."""
    if not runs or experiment is None:
        return None
    query = urlencode(
        {
            "runs": json.dumps(runs),
            "metric": json.dumps("train/loss"),
            "experiments": json.dumps([experiment]),
            "plot_metric_keys": json.dumps(["train/loss"]),
            "x_axis": "step",
            "y_axis_scale": "log",
            "workflowType": "machine_learning",
        }
    )
    return f"{server.rstrip('/')}/#/metric?{query}"


def print_report(report: RunReport, console: Console, *, mlflow: tuple[str | None, str]) -> None:
    """Print table, closing lines and what to do next.

    Args:
        report: the run.
        console: where to.
        mlflow: the command that starts MLflow's UI (null where a server runs already), and its address.
    """
    command, server = mlflow
    console.print()
    console.print(as_table(report))
    if (candidates := candidates_table(report)) is not None:
        console.print(candidates)
    for line in summary(report):
        say(console, line)
    if command:
        say(console, f"open MLflow's UI: {command}")
    if link := overlay_link(report, server):
        say(console, f"the stages side by side: {link}")
