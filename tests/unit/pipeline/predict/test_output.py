"""Answers as lines of JSON, and a file that is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.predict.output import answers_to, as_line
from schemas.core.errors import ConfigError


def test_a_line_is_json_without_commands_to_a_terminal() -> None:
    value = {"text": "grün \x1b[31m \x9b \u202e \u2028 \n", "number": float("nan"), "list": [float("inf"), 1.5]}
    line = as_line(value)
    assert line.count("\n") == 1
    assert line.isprintable() is False
    assert line[:-1].isprintable()
    assert json.loads(line) == {**value, "number": None, "list": [None, 1.5]}
    assert as_line({"text": "grün"}, ascii_only=True) == '{"text": "gr\\u00fcn"}\n'


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    to = tmp_path / "new folder" / "to.jsonl"
    with answers_to(to) as write:
        write([{"row": 1}])
        assert not to.exists()
        write([{"row": 2}])
    assert to.read_text("utf-8") == '{"row": 1}\n{"row": 2}\n'
    assert [path.name for path in to.parent.iterdir()] == ["to.jsonl"]


def test_a_file_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    to = tmp_path / "to.jsonl"

    def write_beside_another() -> None:
        with answers_to(to) as write:
            write([{"row": 1}])
            to.write_text("another", encoding="utf-8")

    with pytest.raises(ConfigError, match="it exists already"):
        write_beside_another()
    assert to.read_text("utf-8") == "another"
    assert [path.name for path in tmp_path.iterdir()] == ["to.jsonl"]
