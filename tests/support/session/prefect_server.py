"""One Prefect server for all workers of a test session, started by the first worker that needs it.

Starting a server (its imports, a hundred migrations of an empty database) takes more processor time than most tests
that use it. The server's standard input is a pipe whose write end every user holds open. Once the last user has closed
it or died, the server reads the end of its input and exits. A test that starts a server gives it a copy of the database
as it was after the migrations.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from filelock import FileLock

from tests.support.paths import ROOT

_PROGRAM = ROOT / "pipeline" / "process" / "prefect_process.py"
_START_SECONDS = 240.0
MIGRATED = "migrated.db"
"""The server's database as it was when nobody had used it yet."""
_servers: list[subprocess.Popen[bytes]] = []
"""Servers that this process started; other workers may use one after this process has ended."""


@contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """Use the server of `folder`, starting it if none is running, and yield its API's address."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        pipe = folder / "users"
        if not pipe.exists():
            os.mkfifo(pipe)
        user = _join(pipe)
        if user is None:
            user = _start(folder, pipe)
        address = (folder / "address").read_text(encoding="utf-8")
    try:
        yield address
    finally:
        os.close(user)


def _join(pipe: Path) -> int | None:
    """Open the pipe for writing; None if no server reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _start(folder: Path, pipe: Path) -> int:
    """Start a server, wait until it responds, and return the write end of its standard input."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    user = os.open(pipe, os.O_WRONLY)
    os.set_blocking(reader, True)
    with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "errors.txt").open("wb") as errors:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        server = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(listener.fileno())],
            env={
                **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
                "PREFECT_HOME": str(folder / "home"),
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    _servers.append(server)
    os.close(reader)
    end = time.monotonic() + _START_SECONDS
    while not _answers(address):
        problem = (folder / "errors.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
        assert server.poll() is None, f"Prefect's server ended with {server.returncode}: {problem}"
        assert time.monotonic() < end, f"Prefect's server did not answer in {_START_SECONDS:.0f} s: {problem}"
        time.sleep(0.1)
    with (
        closing(sqlite3.connect(folder / "home" / "prefect.db")) as migrated,
        closing(sqlite3.connect(folder / MIGRATED)) as copy,
    ):
        migrated.backup(copy)
    (folder / "address").write_text(address, encoding="utf-8")
    return user


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2.0, trust_env=False).is_success
    except httpx.TransportError:
        return False
