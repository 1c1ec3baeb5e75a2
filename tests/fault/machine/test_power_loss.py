"""Power cuts: a few cases of `make torture`, and the losses without synced writes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.store.checkpoints import open_store, verify
from schemas.core.errors import CheckpointError
from stages.storage import sealed_folder as whole
from tests.support.manifests import DIGEST, manifest_of, write_model
from tests.torture.power import Disk, power_campaign


def test_a_run_resumes_to_the_same_weights_after_any_power_cut(tmp_path: Path) -> None:
    campaign = power_campaign(tmp_path, cases=4)
    assert campaign.losses == []
    assert campaign.cuts == 4
    assert campaign.events > 100


@pytest.mark.parametrize("is_synced", [True, False])
def test_a_committed_checkpoint_survives_a_power_cut_because_it_is_synced(
    is_synced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_synced:
        monkeypatch.setattr(whole, "sync_tree", lambda _: None)
    (tmp_path / "disk").mkdir()
    lefts = [tmp_path / f"left {number}" for number in range(20)]
    with Disk(tmp_path / "disk").watched() as disk:
        store = open_store(tmp_path / "disk" / "store")
        store.writer("teacher", DIGEST).commit(manifest_of(), write_model)
        for number, left in enumerate(lefts):
            disk.cut_at(disk.events, left, random.Random(number))
            whole.sync(tmp_path)
    states = [state_after(left / "store") for left in lefts]
    assert (set(states) == {"whole"}) is is_synced
    assert ("damaged" in states) is not is_synced


def state_after(store: Path) -> str:
    """Return the state of the checkpoint as seen by a run."""
    try:
        stored = open_store(store).find("teacher", DIGEST)
        if stored is None:
            return "gone"
        verify(Path(stored[0].path))
    except CheckpointError:
        return "damaged"
    return "whole"


def test_the_simulated_disk_keeps_synced_writes_and_may_lose_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    draws = range(40)
    with disk.watched():
        (folder / "kept").write_bytes(b"old")
        whole.sync(folder / "kept")
        whole.sync(folder)
        (folder / "kept").write_bytes(b"new and longer")
        (folder / "late").write_bytes(b"late")
        for number in draws:
            disk.cut_at(disk.events, tmp_path / f"left {number}", random.Random(number))
            whole.sync(tmp_path)
    left = [tmp_path / f"left {number}" for number in draws]
    contents = {(path / "kept").read_bytes() for path in left}
    assert {b"old", b"new and longer"} < contents
    beginnings = (content.rstrip(bytes(1)) for content in contents)
    assert all(b"old" == beginning or b"new and longer".startswith(beginning) for beginning in beginnings)
    assert {(path / "late").exists() for path in left} == {True, False}
