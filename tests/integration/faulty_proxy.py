"""A proxy on 127.0.0.1 before a server for S3, which does to requests and answers what networks and servers do.

Requests pass unchanged, the name of the host too, so that their signatures stay valid.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import urlsplit

from tests.support.session.http_servers import listening

Fault = Literal["busy", "forbidden", "cut off", "twice", "answer lost"]
"""Of a request: answered with 503 or 403, its answer cut off in the middle, done twice, or done and not answered."""


@dataclass
class Proxy:
    """The state of a proxy."""

    server: str
    """Address of the server."""
    fault: Callable[[str, str, int], Fault | None] = lambda _method, _path, _number: None
    """Fault of a request, by its method, its path and its number among those of that method."""
    address: str = ""
    faults: list[tuple[Fault, str]] = field(default_factory=list)
    """Faults so far, with the path."""
    numbers: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Count a request and return its fault."""
        with self.lock:
            number = self.numbers[method] = self.numbers.get(method, 0) + 1
            fault = self.fault(method, path, number)
            if fault is not None:
                self.faults.append((fault, path))
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        body = self._body()
        fault = self.proxy.next_fault(self.command, self.path)
        if fault in ("busy", "forbidden"):
            self._refuse(fault)
            return
        response, content = self._ask(body)
        if fault == "twice":
            response, content = self._ask(body)
        if fault == "answer lost":
            self.close_connection = True
            return
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut off":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(urlsplit(self.proxy.server).netloc, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders(body)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def _refuse(self, fault: str) -> None:
        status, code = (503, "SlowDown") if fault == "busy" else (403, "AccessDenied")
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def faulty_proxy(server: str) -> Iterator[Proxy]:
    """Run a proxy without faults for the block."""
    proxy = Proxy(server)
    with listening(_Handler, proxy=proxy) as proxy.address:
        yield proxy
