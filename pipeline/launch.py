"""Start of the flow from the command line: Prefect's environment, the flow, and its errors in plain words."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from pipeline.planning.options import RunOptions, chosen_stages
from pipeline.planning.per_task import check_data
from pipeline.process.prefect_server import TemporaryServer
from pipeline.process.programs import program
from pipeline.process.settings import read_settings
from pipeline.process.stopping import stop_signals
from pipeline.recipes.shipped import read_recipe
from pipeline.store.checkpoints import look_into_store, store_for_look
from pipeline.store.files import disk_errors
from schemas.core.credentials import refuse_credentials, without_credentials
from schemas.core.errors import ConfigError, DistillError, Interrupted, ServiceError
from schemas.core.wording import shown_value
from schemas.recipe.recipe import Recipe
from schemas.results.report import AnyReport
from stages.data.readers.first_reading import first_reading

_DEFAULTS = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # Prefect's own 20 are too few for the server of a run that starts on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
    # oneDNN keeps up to 1024 compiled matrix products, one per shape; with batches of every length that is gigabytes.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
}
_ANSWER_SECONDS = 10.0
log = logging.getLogger(__name__)
# Prefect's senders of events and logs; at the end of a short run they complain about what is still unsent.
_CHATTY = ("EventsWorker", "APILogWorker")


def prepare_environment() -> None:
    """Set defaults for Prefect and torch that the user has not set; call it before either is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def check_server(*, patience: float = 3.0) -> None:
    """Check that the Prefect server in PREFECT_API_URL answers within `patience` seconds, if the user named one.

    Raises:
        ServiceError: it does not answer.
    """
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return  # the run starts a temporary server
    import httpx

    end = time.monotonic() + patience
    while True:
        try:
            httpx.get(f"{address.rstrip('/')}/health", timeout=_ANSWER_SECONDS).raise_for_status()
            return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if time.monotonic() < end:
                time.sleep(0.5)
                continue
            raise ServiceError(
                f"PREFECT_API_URL={without_credentials(address)}: no Prefect server answers there "
                f"({type(error).__name__}); start one with: prefect server start, or unset PREFECT_API_URL to run "
                "without one"
            ) from None


@contextmanager
def prefect_errors(again: str) -> Iterator[None]:
    """Turn Prefect's errors about its server into ServiceErrors; `again` is the command that continues the run."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    address = without_credentials(os.environ.get("PREFECT_API_URL", ""))
    server = f"PREFECT_API_URL={address}" if address else "the run's own server"
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise ServiceError(
            f"{server}: the server there requires other credentials ({error.response.status_code}); set "
            "PREFECT_API_AUTH_STRING to its user:password (for Prefect Cloud PREFECT_API_KEY)"
        ) from None
    except httpx.TransportError as error:
        raise ServiceError(
            f"{server}: Prefect's server went away ({type(error).__name__}); finished stages are kept, an unfinished "
            f"one has its last state: start the server again, or unset PREFECT_API_URL, and continue with: {again}"
        ) from None


def run_recipe(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> AnyReport:
    """Run the flow in this process.

    Args:
        recipe: a shipped name or a YAML file.
        overrides: `--set` changes.
        options: fields of `RunOptions`.

    Raises:
        ConfigError: the recipe or an option is wrong; raised, like DataError, before a server is started.
        DataError: its data cannot be used.
        ServiceError: Prefect's server does not start, or stops answering.
    """
    _check_arguments(recipe, overrides, options)
    resolved = read_recipe(recipe, overrides)
    chosen_stages(resolved, options["from_stage"], options["until_stage"])
    # The terminal shows our bars, table and message on failure; Prefect's own lines are in its UI.
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(name, "CRITICAL")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    prepare_environment()
    again = _command(recipe, overrides, options)
    with stop_signals(again, _tell) as stop, first_reading():
        try:
            check_data(resolved, options["store"])
            check_server()
            return _run_flow(resolved, recipe, overrides, options, again)
        except Interrupted as error:
            raise Interrupted(f"{error}; continue with: {again}") from None
        except BaseException as error:
            # Our own errors are reported even after a stop; any other error then is a consequence of it.
            if not stop() or isinstance(error, DistillError):
                raise
            log.debug("after a stop", exc_info=error)
            raise Interrupted(stop.last_words()) from None


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _run_flow(
    resolved: Recipe, recipe: str, overrides: Sequence[str], options: Mapping[str, str | None], again: str
) -> AnyReport:
    """Run the flow on the named server, or on a temporary one that starts while the libraries are imported.

    Without a named server, a run that trains nothing is no flow run: its server would cost more than the run.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    is_named = bool(os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value())  # a profile of Prefect's may name one
    chosen = RunOptions.model_validate(options)
    server = None if is_named or _has_run_of(resolved, chosen) else TemporaryServer()
    gc.disable()  # collecting among imported objects, all of which stay, is a quarter of these seconds
    try:
        from pipeline.flow import distill_flow, execute
        from pipeline.planning.work import is_trained
    finally:
        gc.enable()
    if not is_named and server is None:
        with store_for_look(read_settings(chosen.store).store) as store, disk_errors(store.cache):
            trains_nothing = is_trained(resolved, chosen, store)
        if trains_nothing:
            return execute(resolved, chosen)
        server = TemporaryServer()
    with ExitStack() as stack:
        if server is not None:
            server.wait()
            stack.enter_context(temporary_settings({PREFECT_API_URL: server.api_url}))
        stack.enter_context(prefect_errors(again))
        return distill_flow(recipe=recipe, overrides=list(overrides), options=chosen)


def _has_run_of(recipe: Recipe, options: RunOptions) -> bool:
    """Return whether the store has a run of a recipe of that name, so that this one may find everything."""
    names = look_into_store(read_settings(options.store).store).list_reports()
    return any(name.startswith(f"{recipe.name}-") for name in names)


def _check_arguments(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> None:
    """Refuse credentials and text that is not UTF-8: Prefect keeps a flow run's parameters in its database."""
    refuse_credentials({f"--{name.replace('_', '-')}": value for name, value in options.items()})
    for value in (recipe, *overrides, *options.values()):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{shown_value(value)}: Prefect takes UTF-8 only; rename the file or folder") from None


def _command(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> str:
    """The command line that continues this run."""
    flags = {"from_stage": "--from", "until_stage": "--until", "resume_from": "--resume-from", "store": "--store"}
    words = [program("distill"), "run", recipe]
    words += [word for change in overrides for word in ("--set", change)]
    words += [word for name, flag in flags.items() if (value := options.get(name)) for word in (flag, value)]
    return shlex.join(words)
