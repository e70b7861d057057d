"""A real HTTP server that misbehaves on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves `content`, or `files` by name where there are some; all others are 404 then.

    `faults` are worked off first: ("status", n) or ("stop", bytes after which it hangs up).
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.content = b""
        self.files: dict[str, bytes] = {}
        self.faults: list[tuple[str, int]] = []
        self.requests: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/flights.bin"

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:12]}"'


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        kind, value = server.faults.pop(0) if server.faults else ("none", 0)
        if kind == "status":
            return self._answer(value, b"")
        if server.files:
            server.content = server.files.get(Path(self.path).name, b"")
            if not server.content:
                return self._answer(404, b"")
        if self.headers["If-None-Match"] == server.etag:
            return self._answer(304, b"")
        start = 0
        if self.headers["Range"] and self.headers["If-Range"] == server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = server.content[start:]
        headers = {"Content-Range": f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"} if start else {}
        return self._answer(206 if start else 200, body, headers, stop=value if kind == "stop" else len(body))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, stop: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"ETag": self.server.etag, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        if stop is not None and stop < len(body):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
