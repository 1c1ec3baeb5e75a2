"""What a worker does with a stage: the same bits as the run would make, or one refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.pool_stage import PoolStage
from pipeline.execution.stage_training import StageWork
from pipeline.process.stopping import Stop
from pipeline.stage_flow import _made, _understood
from pipeline.store.checkpoints import open_checkpoint, open_store
from pipeline.store.open_runs import open_run
from schemas.core.base import digest_of
from schemas.core.errors import CheckpointError, ConfigError, DataError
from schemas.recipe.parts import Execution
from schemas.results.manifest import CheckpointRef
from tests.support.command_line import ToyRun


def told(run: ToyRun, stage: str, store: Path, record: str, **changes: Any) -> dict[str, Any]:
    """The JSON with which a worker is asked for a stage of the toy run, to be made again in another store."""
    # By the run's report: other tests of the session may have made stages of this name in its store.
    made = next(row.checkpoint for row in run.report.rows if row.checkpoint and row.checkpoint.stage == stage)
    manifest = open_checkpoint(Path(made.path))[1]
    parent = manifest.parent_digest
    work = StageWork(
        config=manifest.config,
        parent=None if parent is None else CheckpointRef(path="", stage="general", digest=parent),
        identity=manifest.identity,
        execution=Execution(log_every=1),
        title=stage,
        run_name=stage,
        tags={"distill.digest": manifest.digest, "distill.recipe": "toy"},
    )
    pool_stage = PoolStage(work=work, store=str(store), record=record, experiment="toys")
    content: dict[str, Any] = json.loads(pool_stage.model_dump_json())
    content["work"] |= changes
    return content


def test_a_worker_makes_the_same_bits_and_refuses_what_differs(toy_run: ToyRun, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with open_run(store.root, "toy") as run:
        record = str(run.path.relative_to(store.root))
        stage = _understood(told(toy_run, "general", tmp_path, record))
        assert digest_of(stage.work.identity) == stage.work.digest
        assert _made(stage, Stop()) == stage.work.digest
        made, before = (root / "checkpoints" for root in (tmp_path, toy_run.store))
        name = f"general-{stage.work.digest[:16]}/model/model.safetensors"
        assert (made / name).read_bytes() == (before / name).read_bytes()
        assert _made(stage, Stop()) == stage.work.digest, "found in the store"

        identity = {**stage.work.identity, "data": "0" * 64, "numerics": 1}
        with pytest.raises(DataError, match="on the worker's machine its data differ from the run's"):
            _made(_understood(told(toy_run, "general", tmp_path, record, identity=identity)), Stop())
        lacks = {"path": "", "stage": "general", "digest": "0" * 64}
        with pytest.raises(CheckpointError, match="has no checkpoint of general "):
            _made(_understood(told(toy_run, "general_enhanced", tmp_path, record, parent=lacks)), Stop())
    with pytest.raises(ConfigError, match=r"is not the store of the run, whose open/toy-.* is missing there"):
        _made(stage, Stop())


def test_a_run_of_another_version_is_named(toy_run: ToyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not understand .*\(work.title: .*install the same version"):
        _understood(told(toy_run, "general", tmp_path, "open/x.jsonl", title=None))
