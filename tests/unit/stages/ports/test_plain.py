"""A stage runs from a script with plain ports, and its checkpoint and states can be verified like a store's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stages.ports
from pipeline.store.checkpoints import open_checkpoint, verify
from schemas.core.errors import CheckpointError
from stages.ports.plain import FolderCheckpoints, SealedStates
from stages.ports.protocols import TrainingState
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.support.paths import ROOT
from tests.support.toys import toy_rows, toy_teacher

WITHOUT_SERVERS = "import sys\nsys.modules['prefect'] = sys.modules['mlflow'] = None\n"


def test_the_documented_example_runs_without_prefect_and_mlflow(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", stages.ports.__doc__ or "", re.DOTALL)
    assert len(example.splitlines()) < 15
    toy_teacher(tmp_path / "model", layers=2)
    (tmp_path / "corpus.txt").write_text("".join(row["text_a"] + "\n" for row in toy_rows(80, seed=7)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SERVERS + example],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    path, loss = done.stdout.split()
    reference, manifest = open_checkpoint(tmp_path / path)
    assert manifest.steps == 20
    assert reference.stage == "general"
    assert float(loss) == manifest.metrics["eval/loss"]


def test_a_damaged_checkpoint_fails_verification_and_is_replaced_by_a_second_run(tmp_path: Path) -> None:
    writer = FolderCheckpoints(tmp_path)
    folder = Path(writer.commit(manifest_of(), write_model).path)
    assert verify(folder).digest == DIGEST
    (folder / "model" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"model/config\.json"):
        verify(folder)
    assert writer.commit(manifest_of(), write_model).path == str(folder)
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def state(step: int) -> TrainingState:
    return TrainingState(step, {"weight": torch.full((3,), float(step))}, {"seconds": step / 2})


def test_only_the_last_state_is_kept_and_a_damaged_state_is_not_used(tmp_path: Path) -> None:
    states = SealedStates(tmp_path / "states")
    assert states.latest() is None
    for step in (5, 10):
        states.save(state(step))
    latest = states.latest()
    assert latest is not None
    assert (latest.step, latest.numbers) == (10, {"seconds": 5.0})
    assert latest.tensors["weight"].tolist() == [10.0] * 3
    (folder,) = (tmp_path / "states").iterdir()
    (folder / "numbers.json").write_text('{"seconds": 6.0}')
    assert states.latest() is None
