"""A run's closing table, and the lines that are printed below it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

from pipeline.reporting.result_table import Column, ResultTable, TableRow
from pipeline.tracking.views import view_address
from schemas.core.metrics import ABOUT_ONE_CLASS, titled
from schemas.data.cards import DataCard
from schemas.results.manifest import Judgement, Row, RunReport, Size, TeacherReport
from schemas.results.score import Score

NAMES = {"hard_label_baseline": "hard labels only", "bag_of_words": "bag of words"}


def percent(value: float | None) -> str:
    """Write `0.876` as `87.6`, and None as a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def with_interval(score: Score | None) -> str:
    """Write a score as `87.6 (85.1 to 89.9)`, and None as a dash."""
    return "–" if score is None else f"{percent(score.value)} ({percent(score.low)} to {percent(score.high)})"


def amount(value: int | None) -> str:
    """Write a number of tokens, rounded: `2.50 M`, `300 k`."""
    if value is None:
        return "–"
    if value >= 1_000_000:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.0f} k" if value >= 1000 else str(value)


def duration(seconds: float | None) -> str:
    """Write seconds as `75 s`, `12.5 min` or `2.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def is_subset(scored: int | None, of: int | None) -> bool:
    """True if fewer validation rows are scored than the data has."""
    return scored is not None and of is not None and scored < of


def rows_of(scored: int | None, of: int | None) -> str:
    """Write how many rows are scored: `872 rows`, `2,000 of 9,815 rows`."""
    if scored is None:
        return "no rows"
    return f"{scored:,} of {of:,} rows" if is_subset(scored, of) else f"{scored:,} rows"


def subset_note(report: RunReport) -> str:
    """`, 2,000 of 9,815 rows` where a subset of the validation rows is scored, otherwise nothing."""
    counts = report.validation_rows, report.validation_rows_of
    return f", {rows_of(*counts)}" if is_subset(*counts) else ""


def score_tags(positive_label: str | None, rows: str) -> dict[str, str]:
    """Tags that tell an MLflow run's scores from those of other runs, which have the same names.

    Args:
        positive_label: the class that F1 is about; None for scores of all classes.
        rows: how many rows are scored, in words.
    """
    of = {} if positive_label is None else {"distill.f1_of": positive_label}
    return of | {"distill.validation_rows": rows}


def run_table(report: RunReport, *, with_candidates: bool = True) -> ResultTable:
    """The table of a run.

    Args:
        report: the run.
        with_candidates: whether teachers that were tried and not chosen have rows; a terminal shows them in a table of
            their own (`candidates_table`).
    """
    columns = (
        Column("stage", "", is_text=True),
        Column("probe", "probe %"),
        Column("latent"),
        Column(report.metric_title, f"{report.metric_title} %"),
        Column("agreement", "agrees %"),
        Column("tokens"),
        Column("time"),
        Column("status", ""),
    )
    rows = report.rows
    if not with_candidates:
        rows = tuple(row.model_copy(update={"candidate": None}) for row in rows if row.chosen)
    kinds = [row.kind for row in rows]
    last_of_kind = [kind != following for kind, following in zip(kinds, [*kinds[1:], *kinds[-1:]], strict=True)]
    student = student_row(report)
    return ResultTable(
        columns,
        tuple(
            TableRow(
                _cells(row),
                "dim" if row.kind == "baseline" else "bold" if student and row.name == student.name else "",
                ends_section,
            )
            for row, ends_section in zip(rows, last_of_kind, strict=True)
        ),
        f"{report.recipe} on {report.task or 'general text'}{subset_note(report)}",
    )


def _cells(row: Row) -> tuple[str, ...]:
    scores = row.judgement
    name = NAMES.get(row.name, row.name)
    status = ["chosen"] if row.candidate and row.chosen else []
    status += [] if row.status == "ran" else [row.status]
    return (
        f"{name} ({row.candidate})" if row.candidate else name,
        percent(scores.probed),
        "–" if scores.latent_loss is None else f"{scores.latent_loss:.4g}",
        percent(scores.task_metric),
        percent(scores.agreement),
        amount(row.tokens),
        duration(row.seconds),
        ", ".join(status),
    )


def candidates_table(report: RunReport) -> ResultTable | None:
    """The candidates for the teacher, for a terminal; None where only one was trained."""
    candidates = [row for row in report.rows if row.candidate is not None]
    if not candidates:
        return None
    metric = next((row.candidate_metric for row in candidates if row.candidate_metric), "")
    numbers = (f"chosen by {metric}".rstrip(), f"{report.metric_title} %", "tokens", "time")
    rows = []
    for row in candidates:
        name, _, _, score, _, tokens, time, status = _cells(row)
        chosen_by = "–" if row.candidate_score is None else f"{row.candidate_score:.4f}"
        rows.append(TableRow((name, chosen_by, score, tokens, time, status)))
    columns = (Column("", is_text=True), *map(Column, numbers), Column("", is_text=True))
    return ResultTable(columns, tuple(rows), "candidates for the teacher")


def size_lines(size: Size) -> list[str]:
    """Describe parameters, operations and speed of student and teacher."""
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
    """The finished student: the row of the last stage."""
    return next((row for row in reversed(report.rows) if row.kind == "stage"), None)


def teacher_row(report: RunReport) -> Row | None:
    """The row of the teacher; of several candidates, of the chosen one."""
    return next((row for row in report.rows if row.kind == "teacher" and row.chosen), None)


def control_row(report: RunReport) -> Row | None:
    """The row of the same student on hard labels alone."""
    return next((row for row in report.rows if row.name == "hard_label_baseline"), None)


def summary(report: RunReport) -> list[str]:
    """The lines printed below the table."""
    lines: list[str] = []
    student, teacher = student_row(report), teacher_row(report)
    if student and teacher and report.retained is not None:
        lines.append(
            f"{report.metric_title}: student {percent(student.judgement.task_metric)} %, teacher "
            f"{percent(teacher.judgement.task_metric)} %: {percent(report.retained)} % retained"
            + _above_chance(report.majority, report.retained_above_chance)
        )
        lines += _difference_lines(student.judgement, report.minus_control)
    for row in (student, teacher):
        if row and report.validation_rows:
            lines += _score_lines(row, report)
    lines += _guessing_lines(report)
    for teacher_report in report.teachers:
        lines += teacher_lines(teacher_report)[teacher_report.verdict == "good" :]
    if report.data is not None:
        lines += card_lines(report.data)
    if report.size is not None:
        lines += size_lines(report.size)
    if student and student.checkpoint:
        lines.append(f"checkpoint: {student.checkpoint.path}")
    lines.append(f"time: {duration(report.seconds)}")
    return lines


def _above_chance(guessed: float | None, share: float | None) -> str:
    """The share of the teacher's gain over guessing that was retained; the share of its whole score flatters."""
    if guessed is None:
        return ""
    kept = "the teacher is not above it" if share is None else f"{percent(share)} %"
    return f"; above chance ({percent(guessed)} %): {kept}"


def _guessing_lines(report: RunReport) -> list[str]:
    """Scores of the best constant prediction, and the gains over it that the student retained by further scores."""

    def listed(shares: Mapping[str, float]) -> str:
        return ", ".join(
            f"{titled(metric, report.positive_label if metric in ABOUT_ONE_CLASS else None)} {percent(share)} %"
            for metric, share in shares.items()
        )

    lines = []
    if report.guessed:
        lines.append(f"guessing (best constant prediction): {listed(report.guessed)}")
    others = {key: share for key, share in report.gains_retained.items() if key != report.metric}
    if others:
        lines.append(f"retained above guessing by further scores: {listed(others)}")
    return lines


def _difference_lines(judgement: Judgement, minus_control: Score | None) -> list[str]:
    """Differences from teacher and control on the same rows, which are narrower than two intervals suggest."""
    lines = []
    for name, score in (("teacher", judgement.minus_teacher), ("hard labels only", minus_control)):
        if score is not None:
            value, low, high = (f"{100 * number:+.1f}" for number in (score.value, score.low, score.high))
            lines.append(f"student minus {name}: {value} points (95 % interval {low} to {high}, on the same rows)")
    if judgement.agreement is not None and judgement.agreement_guessed is not None:
        lines.append(
            f"student agrees with teacher: {percent(judgement.agreement)} % (the best constant prediction: "
            f"{percent(judgement.agreement_guessed)} %)"
        )
    return lines


def _score_lines(row: Row, report: RunReport) -> list[str]:
    """Scores of a model with their intervals: on all rows, on rows not in train, and on further validation rows."""
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
    """Reasons why some of a model's scores are meaningless, without repetition."""
    return list(dict.fromkeys(score.note for score in scores.values() if score.note))


def card_lines(card: DataCard) -> list[str]:
    """Describe the data in one line per split of the task and one for the corpus."""
    lines = [*(card.task.remarks if card.task else ()), *(card.corpus.remarks if card.corpus else ())]
    for name, split in card.task.splits.items() if card.task else ():
        odd = {
            "repeated": split.duplicates,
            "with several labels": split.contradictions,
            "also in train": split.in_train,
            "cut off": split.cut,
            "left out without a text or a label": split.dropped,
        }
        counts = ", ".join(f"{count:,} {kind}" for kind, count in odd.items() if count)
        lines.append(
            f"{name}: {split.rows:,} rows, {amount(split.tokens)} tokens, half of {split.lengths.median} or fewer, "
            f"longest {split.lengths.longest}; {counts or 'none repeated, cut off or in train'}"
        )
    if card.corpus is not None:
        train = sum(source.train for source in card.corpus.sources)
        repeated = sum(source.duplicates + source.near_duplicates for source in card.corpus.sources)
        line = f"corpus: {train:,} rows, {repeated:,} repeated rows left out"
        if card.leaks is not None:
            line += f"; {card.leaks.rows:,} contain one of the task's {card.leaks.texts:,} validation texts"
        lines.append(line)
    return lines


def teacher_line(report: TeacherReport) -> str:
    """Verdict on a teacher and the reason, in one line."""
    low, high = percent(report.score.low), percent(report.score.high)
    parts = [
        f"{titled(report.metric, report.score.of)} {percent(report.score.value)} % (95 % interval {low} to {high})",
        f"guessing {percent(report.guess)} %",
    ]
    if report.bag_of_words is not None:
        parts.append(f"bag of words {percent(report.bag_of_words)} %")
    if report.label_order == "reordered":
        parts.append("outputs reordered by name to match the task's labels")
    if report.label_order == "unnamed":
        parts.append("outputs without names, assumed to be in the order of the task's labels")
    return f"{report.name}: {report.verdict}: {', '.join(parts)}; {report.reason}"


def teacher_lines(report: TeacherReport) -> list[str]:
    """Verdict on a teacher, and a line for each weakness that was measured."""
    return [teacher_line(report), *(f"{report.name} could be better: {weakness}" for weakness in report.lacks)]


def comparison_link(report: RunReport, server: str) -> str | None:
    """Address of the page of MLflow's UI that shows the rows side by side, by what can be compared.

    Args:
        report: the run.
        server: address of the UI, such as `http://127.0.0.1:5000`.
    """
    runs = [row.mlflow_run_id for row in report.rows if row.kind == "stage" and row.mlflow_run_id]
    view = report.mlflow_run_id if report.mlflow_view else None
    return comparison_address(runs, report.mlflow_experiment_id, view, server)


def comparison_address(runs: list[str], experiment: str | None, view: str | None, server: str) -> str | None:
    """Address of the page that shows a saved view, or without one the probes of these runs; None without runs."""
    if not runs or experiment is None:
        return None
    if view is not None:
        return view_address(server, experiment, view)
    query = urlencode(
        {
            "runs": json.dumps(runs),
            "metric": json.dumps("eval/probe_accuracy"),
            "experiments": json.dumps([experiment]),
            "plot_metric_keys": json.dumps(["eval/probe_accuracy"]),
            "workflowType": "machine_learning",
        }
    )
    return f"{server.rstrip('/')}/#/metric?{query}"
