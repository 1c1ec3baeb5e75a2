"""Prefect's temporary server in a session of its own, which no key press in the terminal reaches.

Without a named server Prefect starts one in the terminal's process group. Ctrl-C then ends the server together with the
run, which can no longer report that it was stopped.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from schemas.core.credentials import secrets_of, without_secrets
from schemas.core.errors import ServiceError
from schemas.core.wording import printable

_PROGRAM = Path(__file__).with_name("prefect_process.py")
_DEFAULT_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_END_SECONDS = 3.0
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception)\b")
_TAIL_LINES = 4
_UNKNOWN_REVISION = "Can't locate revision identified by"
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
        output = without_secrets(self._errors.read().decode(errors="replace"), secrets_of(os.environ))
        lines = [f"Prefect's server for this run ended with exit code {self._process.returncode}; {_remedy(output)}"]
        lines += [f"  {printable(line, 300)}" for line in telling_lines(output)]
        return "\n".join([*lines, *(_kept(output) if output else [])])

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


def telling_lines(output: str) -> list[str]:
    """Return the line of the last exception, if any, and the last lines after it."""
    lines = [line.rstrip() for line in output.split("\n") if line.strip()]
    start = max((number for number, line in enumerate(lines) if _EXCEPTION.match(line)), default=0)
    return lines[start : start + 1] + lines[start + 1 :][-_TAIL_LINES:]


def _remedy(output: str) -> str:
    import prefect
    from prefect.settings import PREFECT_HOME

    home = PREFECT_HOME.value()
    if _UNKNOWN_REVISION in output:
        return (
            f"its database was migrated by a newer Prefect than this one ({prefect.__version__}): upgrade prefect, or "
            f"set PREFECT_HOME (now {home}) to another folder"
        )
    return f"check that PREFECT_HOME (now {home}) is a writable folder with free space"


def _kept(output: str) -> list[str]:
    """Keep the server's output in a file and return the line that names it; none where no file can be written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="prefect-server-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(output)
    except OSError:
        return []
    return [f"its log: {file.name}"]
