"""A small S3 server on 127.0.0.1, which can be told to refuse, to tear objects and to ignore conditions.

It speaks the calls that s3fs makes for objects below 100 MB: put, get, head, delete and list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.session.http_servers import listening


@dataclass
class Bucket:
    """The state of a server: its objects, the requests so far, and how it behaves."""

    address: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Contents by key, the bucket first."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and key of every request."""
    answer: Callable[[str, str], int | None] = lambda _method, _key: None
    """Status with which a request is refused; None to serve it."""
    stored: Callable[[str, bytes], bytes] = lambda _key, content: content
    """Content that is kept of a put."""
    keeps_conditions: bool = True
    """False for a server that overwrites in spite of If-None-Match."""


_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 503: "SlowDown"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        key, query = unquote(url.path).strip("/"), parse_qs(url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.bucket.requests.append((self.command, key))
        status = self.bucket.answer(self.command, key)
        if status is not None:
            self._send(status)
        elif self.command == "PUT":
            if self.headers.get("If-None-Match") and self.bucket.keeps_conditions and key in self.bucket.objects:
                self._send(412)
                return
            self.bucket.objects[key] = self.bucket.stored(key, body)
            self._send(200, tag=body)
        elif "list-type" in query:
            self._send(200, self._listing(key, query.get("prefix", [""])[0], query.get("delimiter", [""])[0]))
        elif key not in self.bucket.objects:
            self._send(404)
        else:
            self._send(200, self.bucket.objects[key], tag=self.bucket.objects[key])

    do_GET = do_PUT = do_HEAD = _serve

    def _listing(self, bucket: str, prefix: str, delimiter: str) -> bytes:
        inside = [key.removeprefix(f"{bucket}/") for key in self.bucket.objects if key.startswith(f"{bucket}/{prefix}")]
        plain = [key for key in inside if not delimiter or delimiter not in key.removeprefix(prefix)]
        folders = {
            prefix + key.removeprefix(prefix).partition(delimiter)[0] + delimiter for key in set(inside) - set(plain)
        }
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.bucket.objects[f'{bucket}/{key}'])}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in plain
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def _send(self, status: int, body: bytes = b"", *, tag: bytes = b"") -> None:
        if status >= 400:
            code = _CODES.get(status, "InternalError")
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.md5(tag, usedforsecurity=False).hexdigest()}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Run a server with no objects for the block."""
    bucket = Bucket()
    with listening(_Handler, bucket=bucket) as bucket.address:
        yield bucket
