"""Prefect from this process: its environment, and its server's errors in plain words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.core.credentials import without_credentials
from schemas.core.errors import ServiceError

_DEFAULTS = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # Prefect's own 20 are too few for the server of a run that starts on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
    # oneDNN keeps up to 1024 compiled matrix products, one per shape; with batches of every length that is gigabytes.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    # torch warns of every machine whose address has no name.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
_ANSWER_SECONDS = 10.0


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
    address = without_credentials(os.environ.get("PREFECT_API_URL", ""))
    server = f"PREFECT_API_URL={address}" if address else "the run's own server"
    remedy = (
        "finished stages are kept, an unfinished one has its last state: start the server again, or unset "
        f"PREFECT_API_URL, and continue with: {again}"
    )
    with server_errors(server, "Prefect's server went away", remedy):
        yield


@contextmanager
def server_errors(server: str, words: str, remedy: str) -> Iterator[None]:
    """Turn the errors of requests to Prefect's server into ServiceErrors.

    Args:
        server: its name in messages.
        words: what is said if it does not answer.
        remedy: what then can be done.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

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
        raise ServiceError(f"{server}: {words} ({type(error).__name__}); {remedy}") from None
