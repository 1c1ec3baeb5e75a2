"""A few cases of each campaign of `make torture`, and what the campaigns have found before."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.data import FileTask
from schemas.errors import DataError
from stages.sources import load_task
from tests.torture.flips import HARMS, flip_campaign
from tests.torture.inputs import DAMAGE, file_campaign, recipe_campaign


def test_harm_to_any_file_is_found(tmp_path: Path) -> None:
    found = flip_campaign(tmp_path, cases=60)
    assert found.losses == []
    assert sum(found.cases.values()) == 60
    assert {name.split(", ")[1] for name in found.cases} == set(HARMS)


def test_damaged_recipes_are_loaded_or_refused(tmp_path: Path) -> None:
    found = recipe_campaign(tmp_path, cases=60)
    assert found.losses == []
    assert found.refused > 40


def test_damaged_data_files_are_loaded_or_refused(tmp_path: Path) -> None:
    found = file_campaign(tmp_path, cases=80)
    assert found.losses == []
    assert found.refused > 40
    assert found.loaded > 2


def test_a_campaign_notices_what_it_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.torture.flips.verify", lambda _: None)
    assert len(flip_campaign(tmp_path / "flips", cases=20).losses) == 10
    monkeypatch.setattr("tests.torture.inputs.load_task", lambda *_: 1 / 0)
    (tmp_path / "files").mkdir()
    found = file_campaign(tmp_path / "files", cases=3)
    assert ["ZeroDivisionError" in loss for loss in found.losses] == [True] * 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deep.jsonl", b'{"text_a": ' + b"[" * 50_000, "line 1 is nested too deeply"),
        ("long.csv", b"text_a,label\n" + b"x" * 200_000 + b",no\n", "line 2 cannot be read"),
        ("open.csv", b'text_a,label\n"' + b"x\n" * 100_000, "a quote that is never closed"),
    ],
)
def test_what_a_campaign_found_is_refused_by_line(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    assert len(DAMAGE) > 10
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_task(FileTask(train=str(file), validation=str(file)), tmp_path / "cache")
