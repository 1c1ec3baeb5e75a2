"""A file in SQuAD's form without a context column is refused like any other file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.tasks.load import load_task


def test_a_question_without_a_context_column_is_refused(tmp_path: Path) -> None:
    asked = {"question": "q", "id": "1", "answers": [{"text": "a", "answer_start": 0}]}
    content = {"data": [{"paragraphs": [{"context": "a b", "qas": [asked]}]}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    task = FileTask.model_validate(
        {"train": str(file), "validation": str(file), "problem": "question_answering", "max_length": 384}
    )
    with pytest.raises(DataError, match=r"task\.text_pair: a question_answering task needs"):
        load_task(task, tmp_path / "cache")
