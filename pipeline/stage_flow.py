"""The Prefect flow of one stage, which a worker of a work pool runs for a run elsewhere (see `pipeline.pools`).

It opens the store and the tracking of its own machine, trains the stage unless the store has it, and ends with the
checkpoint under its digest.
"""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Failed
from pydantic import ValidationError
from rich.console import Console

from pipeline.execution.pool_stage import PoolStage
from pipeline.execution.run_context import RunContext
from pipeline.execution.stage_training import StageWork, log_training, trained
from pipeline.pools.registered import FLOW
from pipeline.process.logs import quiet_prefect
from pipeline.process.settings import read_settings
from pipeline.process.stopping import Stop
from pipeline.progress.prefect_page import PrefectPage, is_shown, suspendable
from pipeline.progress.views import make_progress
from pipeline.store.checkpoints import CheckpointStore, open_store
from pipeline.store.files import disk_errors
from pipeline.store.open_runs import needs_of, open_run
from pipeline.tracking.session import Tracking
from schemas.core.base import digest_of
from schemas.core.errors import ConfigError, DataError, DistillError, Interrupted
from schemas.results.manifest import CheckpointRef
from stages.data.readers.first_reading import first_reading
from stages.identity import differences, stage_identity
from stages.storage.sealed_folder import MANIFEST

quiet_prefect()
R = TypeVar("R")
_SAVE_SECONDS = 25.0
"""Time to save a state before this process ends; whoever ended it waits at least 30 seconds."""


@flow(name=FLOW, validate_parameters=True, persist_result=False, log_prints=False)
def distill_stage(stage: dict[str, Any]) -> str:
    """Train one stage, and keep it in the store of the run that asked for it; return its digest.

    Args:
        stage: everything about the stage, its run and its store, as `distill run` writes it.
    """
    stop = Stop()
    return _beside_signals(lambda: _ended(lambda: _made(_understood(stage), stop)), stop)


def _beside_signals(call: Callable[[], R], stop: Stop) -> R:
    """Call it in another thread, so that a signal to this process lets it save the state.

    Prefect's own handlers stay: it learns in this thread that the run is cancelled, or goes on elsewhere.
    """
    results: list[R] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="stage", daemon=True)
    thread.start()
    try:
        thread.join()
    except (TerminationSignal, KeyboardInterrupt):
        stop.request("Prefect ends this run")
        thread.join(_SAVE_SECONDS)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _ended(call: Callable[[], str]) -> str:
    """Call it, and have Prefect's state of the run say how it ended; the run elsewhere reads it there."""
    state: State[Any]
    try:
        return call()
    except Interrupted as error:
        state = Cancelled(message=str(error), data=error)
    except DistillError as error:
        state = Failed(message=f"{type(error).__name__}: {error}", data=error)
    return cast(str, state)


def _understood(stage: dict[str, Any]) -> PoolStage:
    try:
        return PoolStage.model_validate(stage)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"the worker does not understand what the run asks for ({place}: {error.errors()[0]['msg']}); install the "
            "same version of distill-flow on both machines"
        ) from None


def _made(told: PoolStage, stop: Stop) -> str:
    """Make a stage, or find it; return its digest."""
    work = told.work
    with ExitStack() as stack:
        stack.enter_context(first_reading())
        page = stack.enter_context(suspendable(_page_of(work, stop))) if is_shown() else None
        progress = stack.enter_context(closing(make_progress(Console(stderr=True), page)))
        progress.title, stop.tell = work.title, progress.tell
        settings = read_settings(told.store)
        store = _shared_store(told, settings.store)
        stack.enter_context(disk_errors(store.root))
        record = stack.enter_context(open_run(store.root, work.title))
        record.needs({work.digest, *needs_of(work.config, work.parent)})
        work = work.model_copy(update={"parent": _here(work.parent, store)})
        _check_inputs(work)
        tracking = Tracking(settings.tracking_uri, told.experiment, store.points, artifacts=settings.artifacts)
        stack.callback(tracking.close)
        stop.when_asked.append(tracking.hurry)
        context = RunContext(store, tracking, progress, stop, record, exports=False, run_progress=progress)
        with progress.part(work.title) as part, store.lock(work.config.name, work.digest):
            if (match := store.find(work.config.name, work.digest)) is not None:
                part.detail = match[0].path
            else:
                with trained(work, context) as (result, run):
                    text = (Path(result.checkpoint.path) / MANIFEST).read_text(encoding="utf-8")
                    log_training(run, work.config, text)
        tracking.send_kept()
    return work.digest


def _page_of(work: StageWork, stop: Stop) -> PrefectPage:
    return PrefectPage(work.tags.get("distill.recipe", "stage"), stop.request, is_apart=True)


def _shared_store(told: PoolStage, folder: Path) -> CheckpointStore:
    """Open the run's store; raises ConfigError if the folder of that name is another on this machine."""
    if told.record is not None and not (folder / told.record).is_file():
        raise ConfigError(
            f"{told.work.title}: {told.store} on the worker's machine is not the store of the run, whose "
            f"{told.record} is missing there; give a folder that both machines have, or an object store "
            "(docs/stores.md)"
        )
    return open_store(folder)


def _here(parent: CheckpointRef | None, store: CheckpointStore) -> CheckpointRef | None:
    """The parent as this machine's store has it; raises CheckpointError if it does not."""
    if parent is None:
        return None
    return parent.model_copy(update={"path": str(store.folder_of(parent.stage, parent.digest))})


def _check_inputs(work: StageWork) -> None:
    """Check that this machine reads what the run read.

    Raises:
        DataError: models, data or the program differ.
    """
    identity = stage_identity(work.config, work.parent.digest if work.parent else None)
    if digest_of(identity) == work.digest:
        return
    names = " and ".join(differences(work.identity, json.loads(json.dumps(identity)))) or "the version of distill-flow"
    raise DataError(
        f"{work.title}: on the worker's machine {names} differ from the run's; give both the same files, packages and "
        "version"
    )
