"""Fixtures for all tests, which run offline, send no telemetry and write only below a temporary folder."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import Distill, ToyRun

# Set before Prefect, MLflow and Hugging Face libraries are imported, which read these at import.
_SCRATCH = Path(tempfile.mkdtemp(prefix="distill-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
# All workers of pytest-xdist share the folder of the process that starts them, through the environment.
_SESSION = Path(os.environ.setdefault("DISTILL_TESTS_SESSION", str(_SCRATCH)))

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    DO_NOT_TRACK="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    # Like the command line: MLflow's log lines would mix with ours.
    PREFECT_LOGGING_LEVEL="CRITICAL",
    # Some requests for every stage of hundreds of runs; tests of Prefect's page set it.
    PREFECT_LOGGING_TO_API_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    # Only stages that take long on a slow machine would have these metrics; their own test switches them on.
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING="false",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    HF_HOME=str(_SCRATCH / "huggingface"),
    PREFECT_HOME=str(_SCRATCH / "prefect"),
    XDG_CACHE_HOME=str(_SCRATCH / "cache"),
    XDG_CONFIG_HOME=str(_SCRATCH / "config"),
    MPLCONFIGDIR=str(_SCRATCH / "matplotlib"),
    DISTILL_STORE=str(_SCRATCH / "store"),
    # Some seconds in each of hundreds of runs; tests of exports set it.
    DISTILL_EXPORTS="0",
)
for _name in (
    "DISTILL_EXPERIMENT",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_KEY",
    "PREFECT_API_URL",
    "PREFECT_PROFILE",
):
    os.environ.pop(_name, None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import tests and libraries without collecting garbage among millions of objects that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """Undo changes that a test or a library in it makes to the environment, as MLflow does."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    """Draw the same weights and inputs in any order of tests, unless a test sets a seed."""
    import torch

    # `torch.manual_seed` formats the stack three times where there is no accelerator, thousands of tests long.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _migrations_of_mlflow_run_once() -> None:
    from tests.support.session.mlflow_tables import copy_tables

    copy_tables(_SESSION / "mlflow.db")


@pytest.fixture(scope="session")
def prefect() -> Iterator[str]:
    """The API's address of a real Prefect server with an empty database, shared by all workers of the session.

    Flows of this process use it by themselves. A program that a test starts has a server of its own, as a user's has,
    unless the test hands it this address as PREFECT_API_URL.
    """
    from prefect.context import refresh_global_settings_context

    from tests.support.session.prefect_server import shared_server

    with shared_server(_SESSION / "prefect server") as address, pytest.MonkeyPatch.context() as patch:
        # Set in Prefect's settings and not in the environment, which programs started by tests inherit.
        patch.setenv("PREFECT_API_URL", address)
        refresh_global_settings_context()
        patch.undo()
        yield address
        refresh_global_settings_context()


@pytest.fixture
def prefect_home(prefect: str, tmp_path: Path) -> Path:
    """PREFECT_HOME of a server that a test starts, with an empty database that needs no migration."""
    from tests.support.session.prefect_server import MIGRATED

    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(_SESSION / "prefect server" / MIGRATED, home / "prefect.db")
    return home


@pytest.fixture
def distill(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Distill:
    """`distill` in this process."""
    from tests.support.command_line import Distill

    return Distill(capfd, monkeypatch)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, prefect: str) -> ToyRun:
    """The toy recipe, run once from its YAML file for all tests that only read the store."""
    import yaml

    from pipeline.flow import distill_flow
    from pipeline.planning.options import RunOptions
    from tests.support.command_line import ToyRun
    from tests.support.toys import toy_recipe_dict

    folder = tmp_path_factory.mktemp("toy run")  # a path with a space, on purpose
    recipe = folder / "toy.yaml"
    content = toy_recipe_dict(folder / "in") | {"baselines": ["hard_labels", "bag_of_words"]}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    store = folder / "store"
    report = distill_flow(recipe=str(recipe), options=RunOptions(store=str(store)))
    return ToyRun(recipe, store, report)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and reference values beside the checkout (or DISTILL_SHARED)."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DISTILL_SHARED") or beside)
    if not folder.is_dir():
        pytest.skip(f"shared data is not at {folder}; set DISTILL_SHARED to another path")
    return folder
