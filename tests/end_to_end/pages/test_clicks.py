"""Cancel, Suspend and Resume clicked on Prefect's page in a real browser: a run ends with its state, and goes on.

Prefect's page offers the buttons for runs of a deployment; any other run is cancelled from elsewhere.

DISTILL_TEST_SHOTS names a folder in which the pictures are kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import mlflow.store.db.utils  # noqa: F401  (so that its tables are copied, not made again)
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from pipeline.flow import distill_flow
from pipeline.launch import run_recipes
from pipeline.planning.options import RunOptions
from pipeline.progress import prefect_page
from pipeline.progress.parts import RunProgress
from schemas.core.errors import Interrupted
from tests.support.session.browser import PATIENCE, find_chromium, prefect_ui
from tests.support.toys import toy_recipe_dict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHEAP = ("--disable-gpu", "--disable-software-rasterizer")
"""Without these a page's graph is drawn sixty times a second by the processor."""


class Person:
    """Somebody at Prefect's page, in a thread of their own: Playwright's event loop would be in the way of a flow's."""

    def __init__(self, chromium: str, ui: str, shots: Path) -> None:
        self.ui, self.shots = ui, shots
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._begin, chromium).result()

    def _begin(self, chromium: str) -> None:
        from playwright.sync_api import sync_playwright

        self._driver = sync_playwright().start()
        self._browser = self._driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", *CHEAP])
        self.page = self._browser.new_page(viewport={"width": 1500, "height": 1100})
        self.page.set_default_timeout(PATIENCE)

    def leave(self) -> None:
        """Close the browser."""

        def close() -> None:
            self._browser.close()
            self._driver.stop()

        self._thread.submit(close).result()
        self._thread.shutdown()

    def clicks(self, button: str, confirm: str, run: UUID, line: str = "") -> Future[None]:
        """Open a run's page, wait for a line of its log, and click a button, while this thread runs it."""

        def click() -> None:
            self._open(run, line)
            self.page.get_by_role("button", name=button, exact=True).click()
            self.page.get_by_role("button", name=confirm, exact=True).wait_for()
            self.picture(button)
            self.page.get_by_role("button", name=confirm, exact=True).click()
            self.page.get_by_role("button", name=confirm, exact=True).wait_for(state="hidden")

        return self._thread.submit(self._stopping, click)

    def cancels_elsewhere(self, find: Callable[[], UUID], line: str) -> Future[None]:
        """Find Cancel disabled on the page of a run, and cancel it as `prefect flow-run cancel` does."""

        def cancel() -> None:
            run = find()
            self._open(run, line)
            button = self.page.get_by_role("button", name="Cancel", exact=True)
            button.wait_for()
            self.picture("no Cancel")
            assert button.is_disabled(), "docs/watching.md says so"
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run, State(type=StateType.CANCELLING))

        return self._thread.submit(self._stopping, cancel)

    def _stopping(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException:
            self.picture("failed")
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a run, which would go on
                os.kill(os.getpid(), signal.SIGINT)
            raise

    def _open(self, run: UUID, line: str) -> None:
        self.page.goto(f"{self.ui}/runs/flow-run/{run}")
        if line:
            self.page.get_by_text(line).first.wait_for()

    def picture(self, name: str) -> None:
        self.shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.shots / f"{name}.png")


@pytest.fixture
def person(prefect: str, tmp_path: Path) -> Iterator[Person]:
    chromium = find_chromium()
    with prefect_ui(prefect) as ui:
        person = Person(chromium, ui, Path(os.environ.get("DISTILL_TEST_SHOTS") or tmp_path))
        yield person
        person.leave()


def run_of(recipe: Path) -> UUID:
    """Prefect's id of the newest run of a recipe, once it has begun."""
    with get_client(sync_client=True) as client:
        while True:
            for run in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC):
                if run.parameters.get("recipe") == str(recipe):
                    return run.id
            time.sleep(0.2)


def saved_step(store: Path) -> int:
    """Step of the newest state of the stage."""
    return max(int(path.name.removeprefix("step-")) for path in store.glob("states/general-*/step-*"))


def test_cancel_suspend_and_resume_leave_a_state_that_the_next_run_continues(
    prefect: str, person: Person, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = tmp_path / "toy.yaml", tmp_path / "store"
    recipe.write_text(yaml.safe_dump(toy_recipe_dict(tmp_path / "in", steps=100_000)), "utf-8")
    monkeypatch.setattr(prefect_page, "_LOOK_SECONDS", 0.5)
    advance = RunProgress.advance

    def advance_slowly(self: RunProgress, done: int, metrics: Mapping[str, float]) -> None:
        time.sleep(0.05)  # most of the time is the page's, in which training would keep a processor busy
        advance(self, done, metrics)

    monkeypatch.setattr(RunProgress, "advance", advance_slowly)
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    options = {"store": str(store), "until_stage": "general"}
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}), get_client(sync_client=True) as client:
        clicked = person.cancels_elsewhere(lambda: run_of(recipe), "general: step 0 of 100,000")
        with pytest.raises(Interrupted, match=r"state kept; continue with: .*distill run .* --until general"):
            run_recipes([str(recipe)], [], dict.fromkeys(RunOptions.model_fields) | options)
        clicked.result()
        cancelled = saved_step(store)
        assert cancelled > 0

        # As `distill serve` and workers do: the run of a deployment in a process that ends, and is started to resume.
        deployment = client.create_deployment(client.create_flow(distill_flow), name="toy")
        run = client.create_flow_run_from_deployment(deployment, parameters={"recipe": str(recipe), "options": options})
        clicked = person.clicks("Suspend", "Submit", run.id, f"general: step {cancelled:,} of 100,000")
        with pytest.raises(Pause):
            run_flow(distill_flow, flow_run=run)
        clicked.result()
        suspended = saved_step(store)
        assert suspended > cancelled
        assert client.read_flow_run(run.id).state_name == "Suspended"

        person.clicks("Resume", "Submit", run.id).result()
        run = client.read_flow_run(run.id)
        assert run.state_name == "Resuming"
        clicked = person.clicks("Cancel", "Confirm", run.id, f"general: step {suspended:,} of 100,000")
        run_flow(distill_flow, flow_run=run, return_type="state")
        clicked.result()
        state = client.read_flow_run(run.id).state
    assert saved_step(store) > suspended
    assert state is not None
    assert state.name == "Cancelled"
    assert f"stopped at step {saved_step(store)} of 100000 of general; state kept; the same run" in str(state.message)
    assert capsys.readouterr().err.count("Prefect's page cancels this run, stopping: the state is being saved") == 2
