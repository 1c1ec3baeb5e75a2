"""MLflow's and Prefect's pages of a real run in a real browser: what people look for there is found by its text.

DISTILL_TEST_SHOTS names a folder in which the pictures are kept.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from pipeline.flow import RunOptions, distill_flow
from pipeline.reporting.run_table import comparison_link
from schemas.results.manifest import RunReport
from tests.support.command_line import ToyRun
from tests.support.processes import free_port, running
from tests.support.session.browser import PATIENCE, find_chromium, prefect_ui

STAGES = ("general", "general_enhanced", "task_adaptive", "task_specific")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def chromium() -> str:
    """Chromium of the system's packages."""
    return find_chromium()


@dataclass(frozen=True)
class Pages:
    """The pages of a run that trained every stage, and of one that found them."""

    first: RunReport
    again: RunReport
    mlflow: str
    prefect: str
    flow_run: str
    """Prefect's id of the second run."""


@pytest.fixture(scope="module")
def pages(chromium: str, toy_run: ToyRun, prefect: str) -> Iterator[Pages]:
    port = free_port()
    database = f"sqlite:///{toy_run.store}/mlflow.db"
    command = ("ui", "--backend-store-uri", database, "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(sys.executable, "-m", "mlflow", *command, env=env) as server:
        with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
            again = distill_flow(recipe=str(toy_run.recipe), options=RunOptions(store=str(toy_run.store)))
        flow_run = asyncio.run(newest_flow_run(str(toy_run.store)))
        server.wait_for("Application startup complete", seconds=280)
        with prefect_ui(prefect) as ui:
            yield Pages(toy_run.report, again, f"http://127.0.0.1:{port}", ui, flow_run)


async def newest_flow_run(store: str) -> str:
    """Prefect's id of the last run in a store; other workers' tests have runs on the same server."""
    async with get_client() as client:
        runs = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
    return next(str(run.id) for run in runs if run.parameters.get("options", {}).get("store") == store)


@pytest.fixture(scope="module")
def browser(chromium: str, pages: Pages) -> Iterator[Any]:
    """A browser; started last, since Playwright keeps an event loop in this thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # CI runs as root
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An empty page, whose last picture is kept."""
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.set_default_timeout(PATIENCE)
    yield page
    folder = Path(os.environ.get("DISTILL_TEST_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{request.node.name}.png")
    page.close()


def see(page: Any, *texts: str) -> None:
    """Wait until each text is visible."""
    for text in texts:
        page.get_by_text(text, exact=True).locator("visible=true").first.wait_for()


def test_mlflow_shows_the_stages_side_by_side(pages: Pages, page: Any) -> None:
    link = comparison_link(pages.first, pages.mlflow)
    assert link is not None
    page.goto(link)
    see(page, "teacher", *STAGES, "hard_label_baseline", "bag of words")
    see(page, "eval/probe_accuracy", "eval/latent_loss", "eval/accuracy")
    page.locator("g.bars g.point").nth(9).wait_for(state="attached")
    assert page.get_by_text("train/loss").count() == 0


def test_mlflow_describes_a_run_with_its_table_and_picture(pages: Pages, page: Any) -> None:
    run, experiment = pages.first.mlflow_run_id, pages.first.mlflow_experiment_id
    page.goto(f"{pages.mlflow}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning")
    page.get_by_text("Show more").first.click()
    for stage in STAGES:
        page.get_by_role("cell", name=stage, exact=True).first.wait_for()
    link = page.get_by_text("The stages side by side").get_attribute("href")
    assert f"viewStateShareKey={run}" in link
    picture = page.locator("img[src*='reduced/stages.png']")
    page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    page.get_by_text("task (").first.wait_for()  # the data sets: the task, and one more
    see(page, "+1", "result/student", "result/teacher")


def test_mlflow_tells_reused_stages_from_trained_ones(pages: Pages, page: Any) -> None:
    link = comparison_link(pages.again, pages.mlflow)
    assert link is not None
    page.goto(link)
    see(page, "teacher (reused)", *(f"{stage} (reused)" for stage in STAGES))
    page.locator("g.bars g.point").nth(9).wait_for(state="attached")
    page.get_by_text("general_enhanced (reused)", exact=True).locator("visible=true").first.click()
    page.get_by_text("the run that trained it").first.wait_for()


def test_prefect_shows_the_run_its_lines_and_its_results(pages: Pages, page: Any) -> None:
    page.goto(f"{pages.prefect}/runs/flow-run/{pages.flow_run}")
    see(page, "toy on task")
    page.get_by_text("toy: checking models and data").first.wait_for()
    page.get_by_text("general: found in the store, reused").first.wait_for()
    page.get_by_text("Artifacts", exact=True).locator("visible=true").first.click()
    for key in ("toy-stages", "toy-result"):
        page.get_by_text(key).locator("visible=true").first.wait_for()
