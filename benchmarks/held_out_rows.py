"""Rows held out of a task's training file, on which settings are chosen; the reported rows stay unread."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from schemas.data.tasks import FileTask


def held_out_task(task: FileTask, folder: Path, *, rows: int, seed: int = 0) -> dict[str, Any]:
    """Return a task whose validation rows are drawn from the training file.

    Training rows with the text of a drawn row are left out, so that no validation row is learnt by heart.

    Args:
        task: a task in a JSON-lines file, which may be compressed with gzip.
        folder: receives the two files.
        rows: number of rows to hold out.
        seed: seeds the draw.
    """
    path = Path(task.train)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    texts = [_text(json.loads(line), task) for line in lines]
    drawn = np.random.default_rng(seed).permutation(len(lines))[:rows]
    held_texts = {texts[index] for index in drawn}
    parts = {
        "validation": [lines[index] for index in sorted(drawn)],
        "train": [line for line, text in zip(lines, texts, strict=True) if text not in held_texts],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    return task.model_dump(mode="json") | {
        "train": str(folder / "train.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "more_validation": {},
    }


def _text(row: dict[str, Any], task: FileTask) -> tuple[str, ...]:
    columns = [task.text] if task.text_pair is None else [task.text, task.text_pair]
    return tuple(str(row[column]).casefold().strip() for column in columns)
