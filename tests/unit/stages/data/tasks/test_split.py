"""Validation rows taken out of the training rows: which they are, for every kind, and what they leave as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.data.tasks import FileTask, TaskData
from stages.data.tasks.load import load_task, task_digest
from tests.support.kinds import ROWS, kind_task
from tests.support.tasks import file_task, refused

TASK: TypeAdapter[TaskData] = TypeAdapter(TaskData)


def csv_task(folder: Path, share: str = "10 %", **fields: object) -> FileTask:
    """200 reviews, a tenth negative, of which every fifth is written twice; `;` separates the columns."""
    lines = [f"Film {n} was {'poor' if n % 10 == 0 else 'fine'};{'bad' if n % 10 == 0 else 'good'}" for n in range(200)]
    lines += [line.replace("Film", "film ") for line in lines[::5]]
    path = folder / "films.csv"
    path.write_text("\n".join(["review;mood", *lines]), encoding="utf-8")
    return file_task(path, None, text="review", label="mood", **fields).model_copy(update={"validation": share})


def test_a_share_is_drawn_by_class_and_never_splits_rows_of_equal_text(tmp_path: Path) -> None:
    rows = load_task(csv_task(tmp_path), tmp_path / "cache")
    sides = [{text.lower().replace("  ", " ") for text in part["text"]} for part in (rows.train, rows.validation)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 20
    assert len(rows.train) + len(rows.validation) == 240
    assert Counter(rows.validation["label"])[rows.labels.index("good")] >= 18
    assert Counter(rows.validation["label"])[rows.labels.index("bad")] >= 2
    assert any(remark.startswith("task.validation: 10 % of ") for remark in rows.remarks)
    again = load_task(csv_task(tmp_path), tmp_path / "other cache")
    assert list(again.validation["text"]) == list(rows.validation["text"])
    other = load_task(csv_task(tmp_path, seed=1), tmp_path / "cache")
    assert set(other.validation["text"]) != set(rows.validation["text"])


def test_a_share_is_part_of_the_digest_and_a_file_task_keeps_its_own(tmp_path: Path) -> None:
    task = csv_task(tmp_path)
    digests = [
        task_digest(task.model_copy(update={"validation": share})) for share in ("10 %", " 10.0%", "20 %", task.train)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert task.model_copy(update={"validation": "./10 %"}).validation_share is None


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_task_can_be_split(tmp_path: Path, kind: str) -> None:
    task = TASK.validate_python(kind_task(tmp_path, kind) | {"validation": "25 %"})
    rows = load_task(task, tmp_path / "cache")
    assert 0 < len(rows.validation) < len(rows.train)
    if kind == "question_answering":
        assert not set(rows.train["text_pair"]) & set(rows.validation["text_pair"])


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    for share in ("0 %", "80 %"):
        with pytest.raises(ValidationError, match=f"{share} of the training rows; give more than 0 % and at most 50 %"):
            FileTask(train="a.csv", validation=share)
    one = tmp_path / "one.csv"
    one.write_text("text_a,label\nsame,0\nSame,1\n", encoding="utf-8")
    assert "one text, which cannot be split" in refused(FileTask(train=str(one), validation="10 %"), tmp_path)


def test_a_header_in_one_column_is_explained_by_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text("review^mood\nfine^good\npoor^bad\n", encoding="utf-8")
    task = FileTask(train=str(path), validation=str(path), text="review", label="mood")
    assert "the columns are review^mood; it is one column with all names: set format.separator" in refused(
        task, tmp_path
    )
