"""Form of a task's rows, which an export tells its users and predictions need."""

from __future__ import annotations

from schemas.core.kinds import Embedding, QuestionAnswering
from schemas.data.tasks import AnyTask, DocstringPairTask, DocstringTask
from schemas.results.export import TaskForm
from stages.kinds.rows import TaskRows
from stages.kinds.spans import may_be_silent


def task_form(task: AnyTask, rows: TaskRows | None) -> TaskForm:
    """Return the form of a task.

    Args:
        task: names the columns.
        rows: the task's rows; None where they cannot be read, and what follows from them is not known.
    """
    problem = task.problem
    if isinstance(task, DocstringTask):
        return TaskForm(problem=problem, text="text")
    if isinstance(task, DocstringPairTask):
        return TaskForm(problem=problem, text="signature", pair="sentence", has_pair=True)
    pair = None if isinstance(problem, Embedding) else task.text_pair
    has_pair = pair is not None if rows is None else "text_pair" in rows.train.column_names
    is_open = rows is None and pair == "auto"
    no_answer = isinstance(problem, QuestionAnswering) and (
        problem.no_answer == "allowed" if rows is None else may_be_silent(problem, rows.train)
    )
    return TaskForm(
        problem=problem,
        text=task.text,
        pair="text_b" if pair == "auto" and (has_pair or is_open) else pair if has_pair else None,
        has_pair=None if is_open else has_pair,
        no_answer=no_answer,
    )
