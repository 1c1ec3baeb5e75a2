"""Task and corpus files for tests, and the message of a refused task."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.core.errors import DataError
from schemas.data.corpus import GeneralCorpus
from schemas.data.tasks import FileTask
from stages.data.tasks.load import load_task

ROWS = [{"text_a": "a good film", "label": "yes"}, {"text_a": "a dull plot", "label": "no"}] * 3


def write(path: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8")
    with opened as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def file_task(train: Path, validation: Path | None = None, **fields: Any) -> FileTask:
    return FileTask(train=str(train), validation=str(validation or train), **fields)


def corpus(*paths: Path, **fields: Any) -> GeneralCorpus:
    source = {"kind": "files", "paths": [str(path) for path in paths]}
    return GeneralCorpus.model_validate({"sources": [source], "held_out_rows": 2, **fields})


def refused(task: FileTask, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_task(task, folder / "cache")
    return str(caught.value)
