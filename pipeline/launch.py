"""Starts the flow from the command line: Prefect's environment first, then the flow, then its errors in our words."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.planning.first_look import look_first
from pipeline.planning.options import RunOptions, chosen_stages
from pipeline.process.prefect_server import TemporaryServer
from pipeline.process.stopping import stop_signals
from pipeline.recipes.shipped import read_recipe
from schemas.core.credentials import refuse_credentials, without_credentials
from schemas.core.errors import ConfigError, DistillError, Interrupted, ServiceError
from schemas.core.wording import shown_value
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
_ONE_ANSWER = 10.0
log = logging.getLogger(__name__)
# Prefect's senders of events and logs; at the end of a short run they say that something is still to be sent.
_CHATTY = ("EventsWorker", "APILogWorker")


def prepare_environment() -> None:
    """Set what Prefect and torch should find where the user has set nothing; comes before either is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def check_server(*, patience: float = 3.0) -> None:
    """Make sure that the Prefect server answers, where the user named one.

    Args:
        patience: seconds to go on asking; a server that was just started takes some to answer.

    Raises:
        ServiceError: it does not.
    """
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return  # the run gets one of its own
    import httpx

    end = time.monotonic() + patience
    while True:
        try:
            httpx.get(f"{address.rstrip('/')}/health", timeout=_ONE_ANSWER).raise_for_status()
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
    """Turns what Prefect raises over its server into a ServiceError; `again` is the command that goes on."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    address = without_credentials(os.environ.get("PREFECT_API_URL", ""))
    given = f"PREFECT_API_URL={address}" if address else "the run's own server"
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise ServiceError(
            f"{given}: the server there wants other credentials ({error.response.status_code}); set "
            "PREFECT_API_AUTH_STRING to its user:password (for Prefect Cloud PREFECT_API_KEY)"
        ) from None
    except httpx.TransportError as error:
        raise ServiceError(
            f"{given}: Prefect's server went away ({type(error).__name__}); finished stages are kept, an unfinished "
            f"one has its last state: start the server again, or unset PREFECT_API_URL, and go on with: {again}"
        ) from None


def run_recipe(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> AnyReport:
    """Run the flow in this process.

    Args:
        recipe: a shipped name or a YAML file.
        overrides: `--set` changes.
        options: fields of `RunOptions`.

    Raises:
        ConfigError: the recipe or an option is wrong.
        DataError: its data cannot be used. Both are said before anything heavy is imported and a server started.
        ServiceError: Prefect's server does not start, or does not answer, be it in the middle of the run.
    """
    _check_given(recipe, overrides, options)
    resolved = read_recipe(recipe, overrides)
    chosen_stages(resolved, options["from_stage"], options["until_stage"])
    # The terminal shows our bars, our table and our one message on failure; Prefect's own lines are in its UI.
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(name, "CRITICAL")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    prepare_environment()
    again = _command(recipe, overrides, options)
    with stop_signals(again, _tell) as stop, first_reading():
        try:
            look_first(resolved, options["store"])
            check_server()
            return _run_flow(recipe, overrides, options, again)
        except Interrupted as error:
            raise Interrupted(f"{error}; go on with: {again}") from None
        except BaseException as error:
            # An error of ours says what it is, stopped or not; what else comes then is what the stop has torn.
            if not stop() or isinstance(error, DistillError):
                raise
            log.debug("after a stop", exc_info=error)
            raise Interrupted(stop.last_words()) from None


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _run_flow(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None], again: str) -> AnyReport:
    """The flow, on the server that is named or on one of its own, which starts while all that is needed is imported."""
    server = None if _names_server() else TemporaryServer()
    from pipeline.flow import distill_flow

    with _served_by(server), prefect_errors(again):
        return distill_flow(recipe=recipe, overrides=list(overrides), options=RunOptions.model_validate(options))


@contextmanager
def _served_by(server: TemporaryServer | None) -> Iterator[None]:
    if server is None:
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server.wait()
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield


def _names_server() -> bool:
    """Whether the environment or a profile of Prefect's names a server."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _check_given(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> None:
    """Refuse what must not, or cannot, become a flow run's parameters: Prefect keeps them in its database."""
    refuse_credentials({f"--{name.replace('_', '-')}": value for name, value in options.items()})
    for value in (recipe, *overrides, *options.values()):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{shown_value(value)}: Prefect takes UTF-8 only; rename the file or folder") from None


def program(name: str) -> str:
    """How a person starts one of this environment's programs: its name, or its path where it is not on PATH."""
    if shutil.which(name):
        return name
    return os.path.relpath(Path(sys.executable).parent / name)


def _command(recipe: str, overrides: Sequence[str], options: Mapping[str, str | None]) -> str:
    """The command line that goes on with this run."""
    flags = {"from_stage": "--from", "until_stage": "--until", "resume_from": "--resume-from", "store": "--store"}
    words = [program("distill"), "run", recipe]
    words += [word for change in overrides for word in ("--set", change)]
    words += [word for name, flag in flags.items() if (value := options.get(name)) for word in (flag, value)]
    return shlex.join(words)
