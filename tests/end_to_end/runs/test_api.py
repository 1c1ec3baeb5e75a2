"""A run from Python that is stopped; tests/end_to_end/commands/test_documentation.py has those that end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml

from pipeline.api import run_recipe
from schemas.core.errors import Interrupted
from tests.support.toys import toy_recipe_dict


def test_a_stop_keeps_the_state_and_the_same_call_continues(tmp_path: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in", steps=100_000)), "utf-8")
    store = tmp_path / "store"

    def press_once_it_trains() -> None:
        while not any("train/loss" in path.read_text("utf-8") for path in store.glob("points/**/*.jsonl")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_once_it_trains, daemon=True).start()
    with pytest.raises(Interrupted, match="the same call of run_recipe continues"):
        run_recipe(recipe, {"stages.general.training.seed": 5}, until_stage="general", store=store)
    assert list(store.glob("states/general-*/step-*"))
