"""Data that changes during a run: the run uses its initial inputs, trains each stage once, and reports the change."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline.flow import RunOptions, distill_flow
from pipeline.store.checkpoints import open_checkpoint
from schemas.results.manifest import RunReport
from tests.support.toys import toy_recipe_dict


@contextmanager
def growing(file: Path, row: dict[str, str], *, once_there: Path) -> Iterator[list[int]]:
    """Append rows to a file once a folder contains files; yield the number of appended rows."""
    written, over = [0], threading.Event()

    def write() -> None:
        while not over.is_set():
            if once_there.is_dir() and any(file.stat().st_size for file in once_there.iterdir()):
                with file.open("a", encoding="utf-8") as rows:
                    rows.write(json.dumps(row) + "\n")
                written[0] += 1
            time.sleep(0.05)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("prefect")
def test_a_run_uses_the_content_that_a_growing_file_had_at_its_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = toy_recipe_dict(tmp_path / "in", steps=20)
    content["stages"] = content["stages"][2:3]  # task_adaptive, after its teacher
    recipe, store = tmp_path / "toy.yaml", tmp_path / "store"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    train, row = Path(content["task"]["train"]), {"text_a": "a good film", "label": "good"}
    points = store / "points"
    options = RunOptions(store=str(store))

    with growing(train, row, once_there=points) as written:
        report = distill_flow(recipe=str(recipe), options=options)
    assert written[0] > 0
    output = " ".join(capfd.readouterr().err.split())
    assert output.count("since it began, its data changed") == 2
    assert isinstance(report, RunReport)
    assert report.data is not None
    assert report.data.task is not None
    assert report.data.task.splits["train"].rows == 160
    stages = [row for row in report.rows if row.checkpoint]
    assert [(row.name, row.status) for row in stages] == [("teacher", "ran"), ("task_adaptive", "ran")]
    assert len(list((store / "checkpoints").iterdir())) == 2
    identities = []
    for stage in stages:
        assert stage.checkpoint is not None
        _, manifest = open_checkpoint(stage.checkpoint.path)
        assert manifest.digest == stage.checkpoint.digest
        identities.append(manifest.identity["data"])
    assert len(set(identities)) == 1, "both stages use the same rows"
