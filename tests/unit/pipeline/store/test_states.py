"""States within a stage: restored bit for bit, two are kept, and a damaged one is skipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.store.states import FolderStates, StateManifest
from schemas.core.errors import StoreError
from stages.ports.protocols import TrainingState
from stages.storage.sealed_folder import measure
from tests.support.manifests import DIGEST


def state(step: int) -> TrainingState:
    """A state whose content depends on its step."""
    draw = torch.Generator().manual_seed(step)
    return TrainingState(
        step=step,
        tensors={"weight": torch.randn(4, 3, generator=draw), "rng": torch.randint(0, 255, (7,), dtype=torch.uint8)},
        numbers={"tokens": 12345678901234567, "seconds": 0.1 + step, "sum": float("inf")},
    )


def states_in(folder: Path, digest: str = DIGEST) -> FolderStates:
    """The states of the stage `general` in a folder."""
    return FolderStates(folder, "general", digest)


def test_a_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    kept = state(400)
    states_in(tmp_path / "s").save(kept)
    back = states_in(tmp_path / "s").latest()
    assert back is not None
    assert back.step == 400
    assert back.numbers == kept.numbers
    assert back.tensors.keys() == kept.tensors.keys()
    for name, tensor in kept.tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    assert (tmp_path / "s" / "step-00000400" / "state.safetensors").is_file()


def test_views_shared_and_transposed_tensors_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {
        "base": base,
        "tied": base,
        "view": base[3:6],
        "turned": base.view(3, 4).t(),
        "scalar": torch.tensor(3.0),
        "bf16": base.to(torch.bfloat16),
        "empty": torch.empty(0),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    states = states_in(tmp_path)
    states.save(TrainingState(step=1, tensors=tensors, numbers={}))
    back = states.latest()
    assert back is not None
    for name, tensor in tensors.items():
        assert torch.equal(back.tensors[name], tensor.detach()), name


def test_the_two_newest_states_are_kept(tmp_path: Path) -> None:
    states = states_in(tmp_path)
    for step in (100, 200, 300, 400):
        states.save(state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000300", "step-00000400"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_newest_state_falls_back_to_the_one_before(
    tmp_path: Path, file: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    states = states_in(tmp_path)
    states.save(state(100))
    states.save(state(200))
    path = tmp_path / "step-00000200" / file
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[:-3])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    back = states.latest()
    assert back is not None
    assert back.step == 100
    assert ("manifest" if file == "manifest.json" else file) in caplog.text
    assert "step-00000200" in caplog.text


def test_two_damaged_states_count_as_none(tmp_path: Path) -> None:
    states = states_in(tmp_path)
    for step in (100, 200):
        states.save(state(step))
        (tmp_path / f"step-{step:08d}" / "manifest.json").write_text("{")
    assert states.latest() is None


def test_resuming_from_an_older_state_replaces_the_damaged_newer_one(tmp_path: Path) -> None:
    states = states_in(tmp_path)
    for step in (100, 200):
        states.save(state(step))
    (tmp_path / "step-00000200" / "state.json").write_text("{}")
    states.save(state(150))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00000150"]
    states.save(state(150))
    back = states.latest()
    assert back is not None
    assert back.step == 150


def test_a_failed_state_write_keeps_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    states = states_in(tmp_path)
    states.save(state(100))

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(StoreError, match="the disk is full"):
            states.save(state(200))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000100"]


def test_clear_removes_all_states_and_can_be_repeated(tmp_path: Path) -> None:
    states = states_in(tmp_path / "s")
    states.clear()
    states.save(state(1))
    states.clear()
    states.clear()
    assert states.latest() is None
    assert not (tmp_path / "s").exists()


def test_a_state_copied_from_another_stage_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states_in(tmp_path / "other", "cd" * 32).save(state(200))
    first_states = states_in(tmp_path / "own")
    first_states.save(state(100))
    shutil.copytree(tmp_path / "other" / "step-00000200", tmp_path / "own" / "step-00000200")
    back = first_states.latest()
    assert back is not None
    assert back.step == 100
    assert "it is of general of digest cdcdcdcdcdcdcdcd, not of general of abababab" in caplog.text


def test_a_state_whose_manifest_was_changed_along_with_its_files_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = states_in(tmp_path)
    states.save(state(100))
    folder = tmp_path / "step-00000100"
    text = (folder / "manifest.json").read_text()
    (folder / "state.json").write_text('{"step": 100, "numbers": {}}\n')
    manifest = StateManifest.model_validate_json(text)
    changed = {"state.json": measure(folder)["state.json"]}
    manifest = manifest.model_copy(update={"files": manifest.files | changed})
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    assert states.latest() is None
    assert "manifest.json is not the one manifest.sha256 was written for" in caplog.text


def test_a_state_of_a_version_without_stage_names_is_skipped_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = states_in(tmp_path)
    states.save(state(100))
    path = tmp_path / "step-00000100" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("format", "step", "files")}))
    assert states.latest() is None
    assert "an earlier version wrote it, without the name of its stage" in caplog.text
