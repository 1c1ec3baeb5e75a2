"""One toy run of all four stages through the flow, shared by the tests that look at what it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from schemas.results import RunReport
from tests.toys import toy_recipe_dict


@dataclass(frozen=True)
class ToyRun:
    """A finished run."""

    recipe: Path
    store: Path
    report: RunReport


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """A real, temporary Prefect server with a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, prefect: None) -> ToyRun:
    """The toy recipe, run once from its YAML file."""
    from pipeline.flow import RunOptions, distill_flow

    folder = tmp_path_factory.mktemp("toy run")  # a path with a space, on purpose
    recipe = folder / "toy.yaml"
    content = toy_recipe_dict(folder / "in") | {"baselines": ["hard_labels", "bag_of_words"]}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    store = folder / "store"
    report = distill_flow(recipe=str(recipe), options=RunOptions(store=str(store)))
    return ToyRun(recipe, store, report)
