"""gunicorn's threaded worker, but only a request that has arrived whole gets a thread.

gunicorn's own `gthread` gives a connection a thread at its first byte, or for 5 s without one, and the thread then
reads without a time limit: as many slow clients as there are threads keep all others out, and closing a connection may
hold its main loop for 2 s. Here the main loop collects a request's bytes, within limits of size and time, and a thread
never reads from a socket. Waitress reads like this too, but limits no request's time (a byte now and then keeps a
connection open), stops accepting when its connections are used up, and has one process only and no graceful end on
SIGTERM.

TLS and HTTP/2 belong into a proxy in front: this worker does not speak them.
"""

from __future__ import annotations

import io
import json
import re
import select
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from webapp import HEADERS, MAX_BODY_BYTES

REQUEST_SECONDS: Final = 10.0
"""Timeout for a whole request, in seconds after its first byte or after the connection was opened."""
SEND_SECONDS: Final = 5.0
"""A client must take an answer within this time."""
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_CHUNKED_BYTES: Final = 2 * MAX_BODY_BYTES
"""A body in chunks, their sizes included; 17,000 chunks of one byte took gunicorn's parser 0.9 s."""
SEND_BUFFER_BYTES: Final = 256 * 1024
"""The kernel takes several answers of ours (the page is the longest), so that a thread need not wait for a client."""
MAX_DISCARDED_BYTES: Final = 1024 * 1024

_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")  # gunicorn's parser refuses a bare LF, and says so
_LENGTH: Final = re.compile(rb"\ncontent-length[ \t]*:[ \t]*([0-9]+)[ \t]*\r", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding[ \t]*:[^\r\n]*chunked", re.IGNORECASE)
_CONTINUE: Final = re.compile(rb"\nexpect[ \t]*:[ \t]*100-continue[ \t]*\r", re.IGNORECASE)
_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}")


class TooLargeError(Exception):
    """The request is larger than this server takes: an HTTP status, a code and a sentence."""

    def __init__(self, status: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class RequestBuffer:
    """A request on its way. Only tells when it has all come: what it says, and whether it is HTTP, gunicorn judges."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.expects_continue = False
        self._body = 0  # where the body begins; 0 while the head is not complete
        self._end: int | None = None  # where it ends; None when it comes in chunks
        self._chunk = 0  # where the next chunk begins

    def add(self, data: bytes) -> None:
        """More bytes from the client."""
        self.data += data

    def whole(self) -> bool:
        """Whether all has come, maybe with the beginning of a next request. Raises TooLargeError."""
        if not self._body and not self._read_head():
            return False
        if self._end is not None:
            return len(self.data) >= self._end
        return self._last_chunk_is_there()

    def _read_head(self) -> bool:
        found = _HEAD_END.search(self.data, 0, MAX_HEAD_BYTES)
        if found is None:
            if len(self.data) >= MAX_HEAD_BYTES:
                message = f"The request's line and headers are longer than {MAX_HEAD_BYTES} bytes"
                raise TooLargeError("431 Request Header Fields Too Large", "headers_too_large", message)
            return False
        self._body = self._chunk = found.end()
        head = bytes(self.data[: self._body])
        self.expects_continue = _CONTINUE.search(head) is not None
        if _CHUNKED.search(head) is None:
            found = _LENGTH.search(head)
            digits = found[1] if found else b"0"
            if len(digits) > 9 or int(digits) > MAX_BODY_BYTES:  # Python's int() refuses thousands of digits
                raise _body_too_large()
            self._end = self._body + int(digits)
        return True

    def _last_chunk_is_there(self) -> bool:
        while (line_end := self.data.find(b"\r\n", self._chunk)) >= 0:
            digits = _CHUNK_SIZE.match(self.data, self._chunk)
            if digits is None:
                return True  # no chunk: gunicorn says what is wrong
            if (size := int(digits[0], 16)) == 0:
                return self.data.find(b"\r\n\r\n", line_end) >= 0
            if size > MAX_BODY_BYTES:
                raise _body_too_large()
            if (following := line_end + 2 + size + 2) > len(self.data):
                break
            if self.data[following - 2 : following] != b"\r\n":
                return True
            self._chunk = following
        if len(self.data) - self._body > MAX_CHUNKED_BYTES:
            raise _body_too_large()
        return False


def _body_too_large() -> TooLargeError:
    message = f"The body is longer than the {MAX_BODY_BYTES} bytes that are accepted"
    return TooLargeError("413 Content Too Large", "request_entity_too_large", message)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """One process of the web app. `pending_conns` holds the connections that send, in the order of their deadlines."""

    def murder_pending(self) -> None:
        """In each turn of the main loop: ends what is late, and what has been idle longest where no place is left."""
        super().murder_pending()
        while self.nr_conns >= self.worker_connections:  # gunicorn would accept no more until one ends
            room = max(self.pending_conns, self.keepalived_conns, key=len)
            if not room:
                break
            conn = room.popleft()
            self.poller.unregister(conn.sock)
            self._drop(conn)

    def enqueue_req(self, conn: Any) -> None:
        """gunicorn calls it for a new connection, for a kept one that sends again, and for bytes after a request."""
        if conn.parser is None:
            with suppress(OSError):  # the client is gone already
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        conn.arriving = RequestBuffer(conn.parser.unreader.take_buffered() if conn.parser else b"")
        conn.discarded = -1  # not closing
        conn.sock.setblocking(False)
        (self._judge(conn) or self._progress(conn) or self._park)(conn)

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """More of a request that is not whole yet, or after an answer that was the connection's last."""
        if action := self._progress(conn):
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            action(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keeps the connection as gunicorn does, or ends it without holding the main loop."""
        if fs.cancelled() or fs.exception() or not fs.result():
            self._end(conn)
        else:
            super().finish_request(conn, fs)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """In a thread: the body is in memory, so a broken one is known (ParseException) before the application runs."""
        body = req.body.read()
        if len(body) > MAX_BODY_BYTES:
            raise _body_too_large()
        req.body = io.BytesIO(body)
        req._expected_100_continue = False  # said already
        conn.sock.settimeout(SEND_SECONDS)
        return bool(super().handle_request(req, conn))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """What is no HTTP is refused as JSON, like all else that is refused."""
        if isinstance(exc, TooLargeError):
            self._answer(client, exc.status, exc.code, exc.message)
            return
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = {
            LimitRequestLine: "414 URI Too Long",
            LimitRequestHeaders: "431 Request Header Fields Too Large",
            ExpectationFailed: "417 Expectation Failed",
        }.get(type(exc), "400 Bad Request")
        self._answer(client, status, "malformed_http", f"This is no HTTP request that can be read: {exc}"[:300])

    def _progress(self, conn: Any) -> Callable[[Any], None] | None:
        """Reads what is there; what is to be done with the connection, None where it must go on waiting."""
        try:
            data = conn.sock.recv(64 * 1024)
        except BlockingIOError:
            data = None
        except OSError:
            return self._drop
        if data == b"":
            return self._drop
        if conn.discarded >= 0:
            conn.discarded += len(data or b"")
            return self._drop if conn.discarded > MAX_DISCARDED_BYTES else None
        conn.arriving.add(data or b"")
        return self._judge(conn)

    def _judge(self, conn: Any) -> Callable[[Any], None] | None:
        try:
            if conn.arriving.whole():
                return self._hand_over
        except TooLargeError as error:
            return partial(self._refuse, error=error)
        if conn.arriving.expects_continue:
            conn.arriving.expects_continue = False
            self._send(conn.sock, b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _park(self, conn: Any) -> None:
        conn.timeout = time.monotonic() + REQUEST_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _hand_over(self, conn: Any) -> None:
        writable = select.poll()
        writable.register(conn.sock, select.POLLOUT)
        if not writable.poll(0):  # sends request after request and takes no answer
            self._drop(conn)
            return
        conn.parser = RequestParser(self.cfg, iter([bytes(conn.arriving.data)]), conn.client)
        conn.arriving = None
        conn.initialized = True
        super().enqueue_req(conn)

    def _refuse(self, conn: Any, error: TooLargeError) -> None:
        self._answer(conn.sock, error.status, error.code, error.message)
        self._end(conn)

    def _end(self, conn: Any) -> None:
        """Closes once the client has: closing over bytes it still sends would destroy the answer on its way to it."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.discarded = 0
        (self._progress(conn) or self._park)(conn)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _answer(self, client: socket.socket, status: str, code: str, message: str) -> None:
        body = json.dumps({"code": code, "message": message, "field": None, "errors": []}).encode() + b"\n"
        fields = {**HEADERS, "Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._send(client, f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)
        self.log.warning("%s: %r", status, message)

    def _send(self, client: socket.socket, data: bytes) -> None:
        try:
            client.send(data)  # a few hundred bytes into an empty buffer
        except OSError as error:
            self.log.debug("answer not sent: %s", error)
