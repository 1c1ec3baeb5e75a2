"""`distill predict`: answers to texts, a file or a stream, by an export, a checkpoint or a run's last student."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console

from pipeline.predict.output import answers_to, exists
from pipeline.predict.sources import find_student
from pipeline.predict.standard_input import Stream, is_waiting
from pipeline.predict.students import Student, precision_of
from pipeline.predict.texts import rows_of_texts
from pipeline.process.terminal import say
from schemas.core.errors import ConfigError, DistillError
from schemas.core.kinds import QuestionAnswering
from schemas.data.file_format import Encoding
from stages.predictions.predict import Predictor
from stages.predictions.rows import Row

STREAM = "-"
_STDIN, _CLOSED_PIPE = 0, 141


@dataclass(frozen=True)
class Asked:
    """Rows to answer, and options."""

    texts: Sequence[str] = ()
    """Texts; `-` alone for standard input."""
    pairs: Sequence[str] = ()
    choices: Sequence[str] = ()
    file: str | None = None
    columns: str | None = None
    kept: str | None = None
    encoding: str | None = None
    to: Path | None = None
    precision: str | None = None
    threads: int | None = None
    batch: int | None = None
    store: Path | None = None


def predict(name: str, asked: Asked, console: Console) -> None:
    """Answer rows, and say on `console` what was done.

    Raises:
        ConfigError: an option is wrong.
        DataError: a row cannot be read; the answers before it are on standard output, and `--to` is not written.
    """
    precision = precision_of(asked.precision)
    if asked.to is not None and os.path.lexists(asked.to):
        raise exists(asked.to)
    is_stream = _is_stream(asked)
    student = find_student(name, asked.store)
    chunks = _chunks(student, asked, is_stream=is_stream)
    for remark in (*student.remarks, student.why_torch if precision is None else None):
        if remark is not None:
            say(console, remark)
    threads = asked.threads or _usable_cores()
    # The library's own threads, which it starts with the first text.
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    reader, file = student.open(precision, threads)
    description = f"{file}, {threads} thread{'s' * (threads > 1)}"
    predictor = Predictor(student.form, student.labels, student.max_length, reader, asked.batch)
    try:
        _answer(predictor, chunks, asked.to)
    except BrokenPipeError:
        # Whoever read the answers has enough; what is buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_CLOSED_PIPE)
    except (KeyboardInterrupt, DistillError):
        if predictor.rows and asked.to is None:
            _summarise(predictor, description, console)
        raise
    _summarise(predictor, description, console)


def _answer(predictor: Predictor, chunks: Iterable[list[Row]], to: Path | None) -> None:
    with answers_to(to) as write:
        for rows in chunks:
            answers = predictor.answers(rows)
            write([_object(row, answer) for row, answer in zip(rows, answers, strict=True)])


def _is_stream(asked: Asked) -> bool:
    """Return True where rows are read from standard input.

    Raises:
        ConfigError: there are several inputs, or none.
    """
    if asked.file is not None and (asked.texts or asked.pairs):
        raise ConfigError("--file, and texts as well: give one of the two")
    texts = [STREAM] if asked.file == STREAM else [*asked.texts]
    if STREAM in texts and texts != [STREAM]:
        raise ConfigError("`-` stands for standard input, and other texts are given as well: give one of the two")
    is_stream = texts == [STREAM] or (not texts and asked.file is None)
    if is_stream and (asked.pairs or asked.choices):
        raise ConfigError("--pair and --choice belong to texts of the command line: give such a text before them")
    if is_stream and not texts and not is_waiting(_STDIN):
        raise ConfigError("there is nothing to answer: give texts, --file FILE, or - to type lines of text")
    return is_stream


def _chunks(student: Student, asked: Asked, *, is_stream: bool) -> Iterable[list[Row]]:
    given, kept = _listed(asked.columns, "--text-columns"), _listed(asked.kept, "--keep")
    encoding = _encoding_of(asked.encoding)
    if is_stream:
        return Stream(_STDIN, student.form, encoding, given, kept).chunks()
    if asked.file is not None:
        from pipeline.predict.files import rows_of_file

        return rows_of_file(asked.file, student.form, encoding=encoding, given=given, kept=kept, store=asked.store)
    if given or kept:
        raise ConfigError("--text-columns and --keep belong to --file and to JSON lines; leave them out")
    return [rows_of_texts(student.form, asked.texts, asked.pairs, asked.choices)]


def _listed(text: str | None, option: str) -> tuple[str, ...]:
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ConfigError(f"{option} {text}: give names of columns, separated by commas")
    return names


def _encoding_of(text: str | None) -> Encoding | None:
    known: tuple[Encoding, ...] = get_args(Encoding)
    encoding = next((name for name in known if text is not None and name == text.lower().replace("_", "-")), None)
    if text is not None and encoding is None:
        raise ConfigError(f"--encoding {text}: give one of {', '.join(known)}")
    return encoding


def _object(row: Row, answer: dict[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {"input": row.kept} if row.kept else {}
    return {"row": row.number, "text": row.text, **answer, **kept}


def _usable_cores() -> int:
    """Return the threads to use: OMP_NUM_THREADS, or the cores that this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) else len(os.sched_getaffinity(0))


def _summarise(predictor: Predictor, description: str, console: Console) -> None:
    rows = predictor.rows
    rate = f" at {rows / predictor.seconds:,.0f} rows a second" if predictor.seconds else ""
    say(console, f"{rows:,} row{'s' * (rows != 1)}{rate}, answered by {description}")
    if predictor.cut:
        verb, noun, longest = "were" if predictor.cut != 1 else "was", "texts", predictor.max_length
        if isinstance(predictor.form.problem, QuestionAnswering):  # contexts are read in windows
            noun, longest = "questions", predictor.form.problem.max_question_tokens
        say(console, f"{predictor.cut:,} of {rows:,} {noun} {verb} longer than {longest} tokens and {verb} cut")
    if predictor.empty:
        say(console, f"{predictor.empty:,} of {rows:,} rows had no text, and their answers are null")
