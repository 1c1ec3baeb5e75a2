"""Program of Prefect's temporary server (see `prefect_server`); it imports nothing else of this project.

Its argument is the number of an open socket. It ends when its standard input is closed, by the process that started it
or, after that process, by the system.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time

_END_SECONDS = 1.5


def _end_with_parent() -> None:
    # Not `sys.stdin.read`: it holds a lock, for which Python aborts if the server fails and exits in the meantime.
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_SECONDS)
    os._exit(0)


def serve(listener: socket.socket) -> None:
    """Serve Prefect's API on that socket until standard input ends."""
    import uvicorn

    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    gc.disable()  # collecting among imported objects, all of which stay, is a fifth of the start
    config.load()
    gc.freeze()
    gc.enable()
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
