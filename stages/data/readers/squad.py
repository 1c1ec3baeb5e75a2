"""SQuAD's own files: one JSON object of articles, paragraphs and questions, versions 1.1 and 2.0."""

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
    """Whether a file is one JSON object with `data`, rather than rows."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        return False
    try:
        with open_plain(path) as file:
            begin = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except (OSError, EOFError):
        return False
    # The rows of other files have the columns themselves at their top.
    return begin.startswith("{") and '"data"' in begin[:200]


def read_squad(path: Path, task: FileTask, where: str) -> Dataset:
    """The questions of a file as rows, under the names of the task's columns.

    Raises:
        DataError: it is no such file; with the place in it and what to do.
    """
    with open_plain(path) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DataError(
            f"{where} is one JSON object of more than {MAX_BYTES >> 20} MB; write a question a line (.jsonl)"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no valid JSON ({error}); fetch it again") from None
    if task.text_pair is None:
        raise DataError("task.text_pair: a question_answering task needs the column of the context, such as context")
    rows: dict[str, list[Any]] = {task.text: [], task.text_pair: [], task.label_column: []}
    for number, article in enumerate(_items(content, "data", where)):
        place = f"{where}: data[{number}]"
        for index, paragraph in enumerate(_items(article, "paragraphs", place)):
            inner = f"{place}.paragraphs[{index}]"
            for question, asked in enumerate(_items(paragraph, "qas", inner)):
                at = f"{inner}.qas[{question}]"
                rows[task.text].append(_value(asked, "question", str, at))
                rows[task.text_pair].append(_value(paragraph, "context", str, inner))
                rows[task.label_column].append(_answers(asked, at))
    if not rows[task.text]:
        raise DataError(f"{where} has no questions; give a file that has some")
    return Dataset.from_dict(rows)


def _answers(asked: dict[str, Any], place: str) -> dict[str, list[Any]]:
    answers = [] if asked.get("is_impossible") else _items(asked, "answers", place)
    return {
        "text": [_value(answer, "text", str, f"{place}.answers") for answer in answers],
        "answer_start": [_value(answer, "answer_start", int, f"{place}.answers") for answer in answers],
    }


def _items(holder: Any, key: str, place: str) -> list[Any]:
    items: list[Any] = _value(holder, key, list, place)
    return items


def _value(holder: Any, key: str, kind: type, place: str) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise DataError(
            f"{place}: {key!r} is missing or no {kind.__name__}; give a file in SQuAD's layout, or rows with question, "
            "context and answers (.jsonl)"
        )
    return value
