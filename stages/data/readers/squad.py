"""SQuAD's own files, versions 1.1 and 2.0: one JSON object of articles, paragraphs and questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.files.compression import open_plain

# The training file of SQuAD 2.0 has 42 MB; it is read whole.
MAX_BYTES = 256 << 20


def is_squad(path: Path) -> bool:
    """Return whether a file is one JSON object with `data`, rather than rows."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        return False
    try:
        with open_plain(path) as file:
            begin = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except (OSError, EOFError):
        return False
    # Rows begin with their columns.
    return begin.startswith("{") and '"data"' in begin[:200]


def read_squad(path: Path, task: FileTask, where: str) -> Dataset:
    """Return the questions of a file as rows with the task's columns.

    Raises:
        DataError: the file is not in this layout; with the location in it.
    """
    with open_plain(path) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DataError(
            f"{where} is one JSON object of more than {MAX_BYTES >> 20} MB; write one question per line (.jsonl)"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no valid JSON ({error}); fetch it again") from None
    if task.text_pair is None:
        raise DataError("task.text_pair: a question_answering task needs the column of the context, such as context")
    rows: list[tuple[str, str, dict[str, list[Any]]]] = []
    for number, article in enumerate(_value(content, "data", list, where)):
        in_article = f"{where}: data[{number}]"
        for index, paragraph in enumerate(_value(article, "paragraphs", list, in_article)):
            inside = f"{in_article}.paragraphs[{index}]"
            for position, question in enumerate(_value(paragraph, "qas", list, inside)):
                location = f"{inside}.qas[{position}]"
                text_of = _value(question, "question", str, location)
                rows.append((text_of, _value(paragraph, "context", str, inside), _answers(question, location)))
    if not rows:
        raise DataError(f"{where} has no questions; give a file that has some")
    columns = (task.text, task.text_pair, task.label_column)
    return Dataset.from_dict(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))


def _answers(question: dict[str, Any], location: str) -> dict[str, list[Any]]:
    answers = [] if question.get("is_impossible") else _value(question, "answers", list, location)
    inside = f"{location}.answers"
    return {key: [_value(answer, key, kind, inside) for answer in answers] for key, kind in _ANSWER.items()}


_ANSWER = {"text": str, "answer_start": int}


def _value(holder: Any, key: str, kind: type, location: str) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise DataError(
            f"{location}: {key!r} is missing or no {kind.__name__}; give a file in SQuAD's layout, or rows with "
            "question, context and answers (.jsonl)"
        )
    return value
