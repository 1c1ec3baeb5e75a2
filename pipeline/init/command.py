"""`distill init`: asks or takes options, looks into data and teacher, and writes a recipe that can be planned."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.init.budget import trainings
from pipeline.init.columns import Columns
from pipeline.init.data import Lengths, Source, columns_of, file_task, measure_lengths, read_rows, source_of
from pipeline.init.known import Known, comments_on, tell
from pipeline.init.questions import Questions
from pipeline.init.teacher import (
    Student,
    Teacher,
    choose_student,
    open_teacher,
    packaged_teacher,
    parse_size,
)
from pipeline.init.text import recipe_text
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.teacher_notes import knows_task
from pipeline.process.settings import read_settings
from pipeline.process.terminal import say
from pipeline.recipes.shipped import read_recipe
from pipeline.store.checkpoints import store_for_look
from schemas.core.errors import ConfigError
from schemas.core.wording import shown_value
from schemas.recipe.stage import STAGE_ORDER
from stages.data.tasks.load import load_task
from stages.kinds.rows import TaskRows
from stages.models.encoders import load_tokenizer

_GENERAL, _TASK = STAGE_ORDER[:2], STAGE_ORDER[2:]
_QUESTION_LENGTH = 384
_TEXT_LENGTH = 128
_USUAL_SPEEDUP = 2.0
_SCHEMA = "distill-schema.json"


@dataclass(frozen=True)
class Wanted:
    """Options of `distill init`; what is None is looked for, asked, or the usual."""

    data: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    validation: str | None = None
    encoding: str | None = None
    teacher: str | None = None
    fine_tune: bool | None = None
    speedup: float | None = None
    size: str | None = None
    corpus: str | None = None
    minutes: float | None = None
    output: Path | None = None


def write_recipe(wanted: Wanted, questions: Questions, console: Console, store: Path | None) -> Path:
    """Write a recipe and say what was found and what to do next; return its path.

    Raises:
        ConfigError: an option is wrong or missing, or the recipe's file exists.
        DataError: data or teacher cannot be used.
        ServiceError: a model hub is needed and cannot be reached.
    """
    _check_options(wanted, are_asked=questions.are_asked)
    with store_for_look(read_settings(store).store) as opened:
        known = _look(wanted, questions, opened.cache)
    minutes = wanted.minutes
    if minutes is None and (answer := questions.text("Minutes to train? (Enter: the usual epochs)")):
        minutes = questions.tried("Minutes?", answer, "", _minutes)
    path = questions.tried("Write to?", _given_output(wanted), f"{_name(known.source)}.yaml", _new_file(questions))
    parts = _parts(known, path)
    plan = _planned(parts, known, path, store)
    seconds = plan.seconds
    if minutes is not None:
        settings, seconds = trainings(plan, minutes)
        _set_trainings(parts, settings, known)
        plan = _planned(parts, known, path, store)
    try:
        path.write_text(_text(parts, known, path), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror}); give another path") from None
    tell(known, plan, seconds, str(path), console)
    return path


def _check_options(wanted: Wanted, *, are_asked: bool) -> None:
    if wanted.speedup is not None and wanted.size is not None:
        raise ConfigError("--speedup and --size both choose the student; leave one out")
    if wanted.minutes is not None:
        _minutes(str(wanted.minutes))
    if wanted.speedup is not None and not wanted.speedup > 1:
        raise ConfigError(f"--speedup {wanted.speedup:g}: give a number above 1")
    if wanted.data is not None and not are_asked:
        source_of(wanted.data, wanted.validation, wanted.encoding)  # a misspelt file is the first thing to be told
    missing = [flag for flag, value in (("DATA", wanted.data), ("--teacher MODEL", wanted.teacher)) if value is None]
    if missing and not are_asked:
        packaged = packaged_teacher()
        example = f", such as --teacher {packaged}" if packaged and wanted.teacher is None else ""
        raise ConfigError(
            f"nobody can be asked here (no terminal, or --yes): also give {' and '.join(missing)}{example}"
        )


def _look(wanted: Wanted, questions: Questions, cache: Path) -> Known:
    source, columns = questions.tried(
        "Labelled rows: a file or a folder?",
        wanted.data,
        "",
        lambda data: _source_and_columns(data, wanted, questions, cache),
    )
    teacher = questions.tried(
        "Teacher: a folder, package:NAME or a hub id?", wanted.teacher, packaged_teacher() or "", open_teacher
    )
    most = teacher.shape.max_positions
    rows = load_task(file_task(source.task(columns, min(_length(columns), most))), cache)
    lengths = measure_lengths(rows, load_tokenizer(teacher.folder, teacher.config), most)
    if columns.problem == "question_answering":
        lengths = Lengths(min(_length(columns), most), lengths.longest, lengths.unknown)
    student = _student(wanted, teacher, questions)
    corpus = wanted.corpus
    if corpus is None:
        corpus = questions.text("Text without labels: a file, a folder or docstrings? (Enter: none)")
    return Known(
        source, columns, rows, lengths, teacher, _is_tuned(wanted, teacher, rows, questions), student, _as_path(corpus)
    )


def _source_and_columns(data: str, wanted: Wanted, questions: Questions, cache: Path) -> tuple[Source, Columns]:
    source = source_of(data, wanted.validation, wanted.encoding)
    path, rows = read_rows(source, cache)
    named = {"text": wanted.text, "text_pair": wanted.text_pair, "label": wanted.label}
    if rows is not None and questions.are_asked:
        try:
            columns = columns_of(path, rows, named)
        except ConfigError as error:
            say(questions.console, error.problems[0])
            named["label"] = named["label"] or questions.text("Column of the label?")
            named["text"] = named["text"] or questions.text("Column of the text?")
            columns = columns_of(path, rows, named)
        named["text"] = named["text"] or questions.text("Column of the text?", columns.text)
        label = columns.label if isinstance(columns.label, str) else ",".join(columns.label)
        named["label"] = named["label"] or questions.text("Column of the label?", label)
        if named["text_pair"] is None:
            named["text_pair"] = questions.text("Column of a second text? (Enter: none)", columns.text_pair or "")
    columns = columns_of(path, rows, named)
    if wanted.validation is None:
        validation = questions.text("Validation rows: a file, or a share of the rows?", source.validation)
        source = source_of(data, validation, wanted.encoding)
    load_task(file_task(source.task(columns, _length(columns))), cache)
    return source, columns


def _length(columns: Columns) -> int:
    """Return the usual length: a context needs more room than a text."""
    return _QUESTION_LENGTH if columns.problem == "question_answering" else _TEXT_LENGTH


def _is_tuned(wanted: Wanted, teacher: Teacher, rows: TaskRows, questions: Questions) -> bool:
    if wanted.fine_tune is not None or not knows_task(teacher.model, rows.problem, rows.labels):
        return wanted.fine_tune is False
    return questions.agrees("The teacher already answers with these labels; use it as it is?")


def _student(wanted: Wanted, teacher: Teacher, questions: Questions) -> Student:
    if wanted.size is not None:
        return choose_student(teacher, speedup=None, size=parse_size(wanted.size))
    given = None if wanted.speedup is None else f"{wanted.speedup:g}"
    return questions.tried(
        "How many times faster than the teacher?",
        given,
        f"{_USUAL_SPEEDUP:g}",
        lambda answer: choose_student(teacher, speedup=_number(answer, "--speedup"), size=None),
    )


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option} {shown_value(text)}: give a number") from None


def _minutes(text: str) -> float:
    minutes = _number(text, "--minutes")
    if not 0 < minutes < inf:
        raise ConfigError(f"--minutes {minutes:g}: give a number above 0")
    return minutes


def _as_path(corpus: str) -> str:
    """The corpus as in a recipe: a path of this folder gets its sign."""
    return (
        f"./{corpus}"
        if corpus and corpus != "docstrings" and Path(corpus).exists() and corpus[0] not in "./~"
        else corpus
    )


def _name(source: Source) -> str:
    path = Path(source.train)
    name = path.name.partition(".")[0] if path.name != "train.*" else Path(path.parent.absolute()).name
    return re.sub(r"[^a-z0-9_\-]+", "-", name.lower()).strip("-_")[:64] or "recipe"


def _given_output(wanted: Wanted) -> str | None:
    return None if wanted.output is None else str(wanted.output)


def _new_file(questions: Questions) -> Callable[[str], Path]:
    """Return a check of an answer: a file that does not exist yet, or may be overwritten."""

    def check(answer: str) -> Path:
        path = Path(answer).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            path = path.with_name(f"{path.name}.yaml")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"--output {path}: there is no folder {path.parent}")
        if path.exists() and not (questions.are_asked and questions.agrees(f"Overwrite {path}?", proposal=False)):
            raise ConfigError(f"--output {path}: exists and is never overwritten unasked; give another name")
        return path

    return check


def _parts(known: Known, path: Path) -> dict[str, Any]:
    """Return the recipe, with the usual settings of all trainings."""
    name = re.sub(r"[^a-z0-9_\-]+", "-", path.stem.lower()).strip("-_")[:64] or "recipe"
    teacher: Any = {"fine_tuned": known.teacher.name} if known.is_tuned else known.teacher.name
    parts: dict[str, Any] = {"name": name, "teacher": teacher, "student": known.student.part()}
    parts["task"] = known.source.task(known.columns, known.lengths.max_length)
    if known.corpus:
        corpus = {"sources": known.corpus, "max_length": min(128, known.teacher.shape.max_positions)}
        parts["general_corpus"] = corpus
    parts["stages"] = [*(_GENERAL if known.corpus else ()), *_TASK]
    parts["baselines"] = ["bag_of_words"]
    return parts


def _set_trainings(parts: dict[str, Any], settings: dict[str, dict[str, Any]], known: Known) -> None:
    """Write the trainings out."""
    parts["stages"] = [{"name": name, "training": settings[name]} for name in parts["stages"]]
    if "teacher" in settings:
        tuning = {"kind": "fine_tune", "training": settings["teacher"]}
        parts["teacher"] = {"model": known.teacher.name, "task_model": tuning}


def _planned(parts: dict[str, Any], known: Known, path: Path, store: Path | None) -> Plan:
    """Plan the recipe as `distill plan` will read it."""
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        file = Path(folder) / path.name
        file.write_text(_text(parts, known, path), encoding="utf-8")
        recipe = read_recipe(str(file))
    return make_plan(recipe, store)


def _text(parts: dict[str, Any], known: Known, path: Path) -> str:
    return recipe_text(
        parts,
        comments_on(known),
        [
            f"All keys with their values: distill show {path}",
            f"Completion of keys in an editor: distill schema > {_SCHEMA}",
            f"yaml-language-server: $schema={_SCHEMA}",
        ],
    )
