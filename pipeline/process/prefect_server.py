"""Prefect's temporary server in a session of its own, which no key press in the terminal reaches.

Without a named server Prefect starts one in the terminal's process group. Ctrl-C then ends the server together with the
run, which can no longer report that it was stopped.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from schemas.core.errors import ServiceError

_PROGRAM = Path(__file__).with_name("prefect_process.py")
_DEFAULT_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_END_SECONDS = 3.0
# What Prefect sets for its own: no pages, nothing that runs at intervals.
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class TemporaryServer:
    """A Prefect server on a free port of the loopback interface; it ends with this process."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.api_url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        with listener:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), str(listener.fileno())],
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        # Registered first, so called last: Prefect sends events when the interpreter ends.
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until it answers; raises ServiceError if it ends, or does not answer in time."""
        import httpx

        timeout = os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "")
        end = time.monotonic() + (float(timeout) if timeout.isdecimal() else _DEFAULT_SECONDS)
        while self._process.poll() is None and time.monotonic() < end:
            try:
                if httpx.get(f"{self.api_url}/health", timeout=2.0, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_LOOK_SECONDS)
        raise ServiceError(self._failure())

    def _failure(self) -> str:
        if self._process.poll() is None:
            return (
                "Prefect's server for this run did not start in time; run again when the machine is less busy, raise "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start a server with: prefect server start, then: "
                "export PREFECT_API_URL=http://127.0.0.1:4200/api"
            )
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        return (
            f"Prefect's server for this run ended with exit code {self._process.returncode} ({last[:300]}); see what "
            "`prefect server start` says, and check PREFECT_HOME"
        )

    def stop(self) -> None:
        """End it and wait until it has ended."""
        atexit.unregister(self.stop)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
