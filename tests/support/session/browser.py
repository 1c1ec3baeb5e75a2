"""Chromium of the system's packages, and Prefect's own pages, which talk to the test session's server."""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from prefect.settings import PREFECT_UI_API_URL, temporary_settings

from tests.support.processes import free_port

PATIENCE = 240_000
"""Milliseconds that a page may take on a busy machine."""


def find_chromium() -> str:
    """Return the program; the test is skipped without it, or without Playwright."""
    pytest.importorskip("playwright.sync_api", reason="no Playwright; install the extra `browser`")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium; apt-get install chromium")
    return path


@contextmanager
def prefect_ui(api: str) -> Iterator[str]:
    """Serve Prefect's pages, which the test session's server does not serve, during the block."""
    from prefect.server.api.server import create_ui_app

    port = free_port()
    with temporary_settings({PREFECT_UI_API_URL: api}):
        config = uvicorn.Config(create_ui_app(ephemeral=False), host="127.0.0.1", port=port, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=contextvars.copy_context().run, args=(server.run,))
        thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
