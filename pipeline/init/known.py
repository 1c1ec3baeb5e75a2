"""Everything that a new recipe is made of, and how it is described."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from pipeline.init.columns import Columns
from pipeline.init.data import Lengths, Source
from pipeline.init.teacher import Student, Teacher
from pipeline.planning.plan import Plan
from pipeline.process.terminal import say
from pipeline.reporting.run_table import duration
from schemas.recipe.stage import STAGE_ORDER
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows

_MOST_SHOWN_LABELS = 6
_LEARN_LABELS = ("teacher", STAGE_ORDER[-1])
_FEW_STEPS = 100
"""Half of what the quickstart's teacher takes; with 14 steps a teacher of two classes still guessed."""
_MUCH_UNKNOWN = 0.05


@dataclass(frozen=True)
class Known:
    """Everything that a recipe is made of."""

    source: Source
    columns: Columns
    rows: TaskRows
    lengths: Lengths
    teacher: Teacher
    is_tuned: bool
    student: Student
    corpus: str
    """Empty for none."""


def comments_on(known: Known) -> dict[str, str]:
    """Return what stands behind the lines of the recipe, by the path of a line's key."""
    shape, student, lengths = known.teacher.shape, known.student, known.lengths
    layers = f"{student.shape.num_layers} of its {shape.num_layers} layers"
    is_share = known.source.validation.rstrip().endswith("%")
    taken = "drawn by class and not trained on; or name a file"
    tuned = "fine-tuned on the task already" if known.is_tuned else "pretrained; is fine-tuned on the task first"
    how = "copied" if student.is_copied else "made narrower"
    return {
        "teacher": tuned,
        "student": f"{layers}, {how}: {student.speedup:.1f} times as fast",
        "task.train": _described(known.rows),
        "task.validation": f"{len(known.rows.validation):,} rows{f', {taken}' if is_share else ''}",
        "task.max_length": f"tokens; 95 % of the rows fit, the longest has {lengths.longest:,}",
        "baselines": "add hard_labels: what labels alone give, for as long as the stages take",
    }


def _described(rows: TaskRows) -> str:
    """`1,000 rows: negative 510, positive 490`."""
    counts = kind_of(rows.problem).balance(rows.labels, rows.train)
    shown = [f"{name} {number:g}" for name, number in counts.items()]
    more = f", … ({len(shown)} in all)" if len(shown) > _MOST_SHOWN_LABELS else ""
    listed = ", ".join(shown[:_MOST_SHOWN_LABELS]).replace("\n", " ")
    return f"{len(rows.train):,} rows: {listed}{more}"


def tell(known: Known, plan: Plan, seconds: float, path: str, console: Console) -> None:
    """Print what was found, what the recipe makes of it, and what to do next."""
    for remark in known.rows.remarks:
        say(console, remark)
    student, depth = known.student, known.teacher.shape.num_layers
    parameters = [number / 1e6 for number in (plan.size.student_parameters, plan.size.teacher_parameters)]
    say(console, f"{known.columns.problem}: {_described(known.rows)}; {len(known.rows.validation):,} validation rows")
    say(
        console,
        f"student: {student.shape.num_layers} of {depth} layers, {student.speedup:.1f} times as fast as its teacher, "
        f"{parameters[0]:.1f} M parameters instead of {parameters[1]:.1f} M",
    )
    if known.lengths.unknown > _MUCH_UNKNOWN:
        say(
            console,
            f"the teacher's vocabulary lacks {known.lengths.unknown:.0%} of the text's tokens: it was made for other "
            "languages, and another teacher, such as a multilingual one, is likely to do much better",
            "yellow",
        )
    for stage in plan.stages:
        if stage.name in _LEARN_LABELS and stage.status == "run" and stage.steps < _FEW_STEPS:
            say(
                console,
                f"{stage.name}: {stage.steps} steps are few to learn a task in; give more --minutes or more rows, or a "
                f"longer duration in {path}",
                "yellow",
            )
    say(console, f"{path}: written; training takes about {duration(seconds)} on this machine")
    say(console)
    say(console, "Next:", "bold")
    steps = {
        f"distill plan {path}": "what would run, and what it costs",
        f"distill run {path}": "train; the same command goes on after a stop",
        "distill compare": "which stage helped?",
        'distill predict RUN "a text"': "ask the student",
    }
    width = max(map(len, steps)) + 2
    for command, purpose in steps.items():
        say(console, f"  {command:<{width}}{purpose}")
