"""The web app in its real server behind nginx, on raw sockets: broken HTTP, slow clients, too many of them, a stop."""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flight_delays.contract import Collection
from flight_delays.data.distances import PAIRS_FILE, import_distances, read_pairs
from flight_delays.infra import mongo
from flight_delays.settings import LOOPBACK
from tests.integration.line import until
from tests.web.form import FLIGHT, FORM, RESPONSE, SUBMIT
from tests.web.nginx import Names, Nginx, running_nginx
from webapp import HEADERS
from webapp.status import FRESH_SECONDS

pytestmark = pytest.mark.integration

BODY = b"DepDelay=5&Carrier=AA&FlightDate=2016-12-25&Origin=ATL&Dest=SFO&FlightNum=1519"
TYPE = b"Content-Type: application/x-www-form-urlencoded\r\n"
POST = f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\n".encode() + TYPE
GET = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\nA: b\r\n\r\n" % (len(BODY), BODY)
THREADS = 4
PLACES = 4096  # worker_connections of docker/nginx.conf
SLOW_CLIENTS = 200
CROWD = 100


@pytest.fixture(scope="module")
def bare(web_app: Callable[..., Any], stack: Any) -> Iterator[str]:
    """One web app for these tests, which know all airports."""
    database = mongo.connect(stack.settings)
    import_distances(database[Collection.DISTANCES], read_pairs(PAIRS_FILE))
    database.client.close()
    with web_app(FLIGHTS_WEB_THREADS=str(THREADS), FLIGHTS_WEB_PROXIES="1") as url:
        deadline = time.monotonic() + 60
        while not accepted(url):  # a busy machine may need longer for the first connection to Kafka
            assert time.monotonic() < deadline
        yield url


@pytest.fixture(scope="module")
def nginx(bare: str) -> Iterator[Nginx]:
    with running_nginx(Names({"web": LOOPBACK}), web=httpx.URL(bare).port or 80) as nginx:
        yield nginx


@pytest.fixture
def url(nginx: Nginx) -> str:
    return nginx.url


@pytest.fixture(params=["url", "bare"], ids=["nginx", "bare"])
def either(request: pytest.FixtureRequest) -> str:
    """Behind nginx, as in containers, and without it, as `make up` has it on loopback."""
    return str(request.getfixturevalue(request.param))


def connect(url: str) -> socket.socket:
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 80))
    connection.settimeout(30)
    return connection


def answers(connection: socket.socket) -> list[tuple[int, dict[str, str], bytes]]:
    """All answers until the server closes: status, headers, body."""
    found = []
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            status = int(line.split()[1])
            headers = {}
            while (line := stream.readline().strip()) != b"":
                name, _, value = line.decode("latin1").partition(": ")
                headers[name.lower()] = value
            found.append((status, headers, stream.read(int(headers.get("content-length", "0")))))
    return found


def accepted(url: str) -> bool:
    return httpx.post(url + SUBMIT, data=FLIGHT, timeout=30).status_code == 202


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "malformed_http"),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_http"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed_http"),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed_http"),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed_http"),
        (GET + b"no colon\r\n\r\n", 400, "malformed_http"),
        (GET + b"A: \x00\r\n\r\n", 400, "malformed_http"),
        (GET + b"Host: y\r\n\r\n", 400, "malformed_http"),
        (GET + b"A: " + b"b" * 9_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET + b"A: " + b"b" * 40_000, 431, "headers_too_large"),
        (GET + b"Connection: close\r\n" + b"a:\n" * 900 + b"\r\n", 404, "not_found"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n", 414, "malformed_http"),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "malformed_http"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "malformed_http"),
        (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400, "malformed_http"),
        (POST + b"Content-Length: 40000\r\n\r\n" + b"a" * 40_000, 413, "request_entity_too_large"),
        (POST + b"Expect: 100-continue\r\nContent-Length: 40000\r\n\r\n", 413, "request_entity_too_large"),
        (POST + b"Connection: close\r\nExpect: x\r\nContent-Length: 1\r\n\r\na", 400, "missing_field"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, "malformed_http"),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "malformed_http"),
        (CHUNKED + b"zz\r\n", 400, "malformed_http"),
        (CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", 400, "malformed_http"),
        (CHUNKED + b"5000\r\n" + b"a" * 0x5000 + b"\r\n0\r\n\r\n", 413, "request_entity_too_large"),
        (CHUNKED + (b"1000\r\n" + b"a" * 0x1000 + b"\r\n") * 5 + b"0\r\n\r\n", 413, "request_entity_too_large"),
        (b"GET /%00%ff%zz HTTP/1.0\r\n\r\n", 400, "malformed_http"),
        (b"GET /static/%00 HTTP/1.0\r\n\r\n", 400, "malformed_http"),
        (b"GET /static/..%2f__init__.py HTTP/1.0\r\n\r\n", 404, "not_found"),
        (b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.0\r\n\r\n", 404, "not_found"),
        (b"GET " + SUBMIT.encode() + b"/response/%0d%0aA:b HTTP/1.0\r\n\r\n", 400, "malformed_uuid"),
        (b"TRACE / HTTP/1.0\r\n\r\n", 405, "method_not_allowed"),
        (b"BREW /nothing HTTP/1.0\r\n\r\n", 404, "not_found"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed_http"),
        (POST.replace(b"1.1", b"1.0") + b"\r\n" + BODY, 400, "missing_field"),  # no length, so no body
    ],
)
def test_refused_in_json(url: str, sent: bytes, status: int, code: str) -> None:
    with connect(url) as connection:
        connection.sendall(sent)
        [(found, headers, body)] = answers(connection)

    answer = json.loads(body)
    assert (found, answer["code"]) == (status, code)
    assert answer["message"]
    assert headers["content-type"] == "application/json"
    assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Connection: close\r\n" + LENGTH + BODY,
        POST.replace(b"1.1", b"1.0") + LENGTH + BODY,
        POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"\r\n" + POST + b"Connection: close\r\n" + LENGTH + BODY,
    ],
)
@pytest.mark.parametrize("piece", [1, 10_000])
def test_accepted_however_it_is_sent(either: str, sent: bytes, piece: int) -> None:
    with connect(either) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), piece):
            connection.sendall(sent[start : start + piece])
        [(status, _, _)] = answers(connection)

    assert status == 202


def test_pipelined_requests_are_answered_in_turn(either: str) -> None:
    with connect(either) as connection:
        connection.sendall((GET + b"\r\n" + POST + LENGTH + BODY) * 20 + GET + b"Connection: close\r\n\r\n" + GET)
        found = [status for status, _, _ in answers(connection)]

    assert found == [404, 202] * 20 + [404]


def test_continue_is_said_once(either: str) -> None:
    with connect(either) as connection:
        connection.sendall(POST + b"Connection: close\r\nExpect: 100-continue\r\n" + LENGTH)
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert [status for status, _, _ in answers(connection)] == [202]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        POST[:30],
        POST + LENGTH + BODY[:-1],
        CHUNKED + b"5\r\nabc",
        POST + b"Content-Length: 99999\r\n\r\n",  # refused, and the client does not close
        b"GET /nothing HTTP/1.0\r\n\r\n",  # answered, and the client does not close
    ],
    ids=["nothing", "line", "body", "chunk", "refused", "answered"],
)
def test_slow_clients_keep_nobody_out(url: str, sent: bytes) -> None:
    """Without nginx the next client would wait 5 s for each four silent ones, and forever for half a line."""
    with ExitStack() as connections:
        for _ in range(SLOW_CLIENTS):
            connections.enter_context(connect(url)).sendall(sent)
        assert accepted(url)


@pytest.mark.parametrize(
    ("chunks", "code"),
    [(b"zz\r\n", "malformed_http"), (b"3\r\nabcdef\r\n0\r\n\r\n", "malformed_http"), (b"5\r\na", "bad_request")],
)
def test_broken_chunks_without_nginx(bare: str, chunks: bytes, code: str) -> None:
    with connect(bare) as connection:
        connection.sendall(CHUNKED + chunks)
        connection.shutdown(socket.SHUT_WR)
        [(status, _, body)] = answers(connection)
    assert (status, json.loads(body)["code"]) == (400, code)


def test_kept_connections_keep_nobody_out(bare: str) -> None:
    with ExitStack() as connections:
        for _ in range(SLOW_CLIENTS):
            connection = connections.enter_context(connect(bare))
            connection.sendall(GET + b"\r\n")
            assert connection.recv(1)
        assert accepted(bare)


def test_clients_that_take_no_answer_keep_nobody_out(url: str) -> None:
    asked = f"GET {FORM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 500  # 11 MB of answers
    with ExitStack() as connections:
        for _ in range(2 * THREADS):
            connection = connections.enter_context(connect(url))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(ConnectionError):  # it may be dropped already
                connection.sendall(asked)
        for _ in range(200):  # meanwhile the answers that nobody takes fill all buffers
            assert accepted(url)


def test_long_polls_keep_no_flight_out(url: str) -> None:
    poll = f"GET {RESPONSE}{uuid4()}?wait=20 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as connections:
        polls = [connections.enter_context(connect(url)) for _ in range(SLOW_CLIENTS)]
        for connection in polls:
            connection.sendall(poll)
        begin = time.monotonic()
        assert all(accepted(url) for _ in range(20))
        assert time.monotonic() - begin < 15, "all waited for a long poll"
        waiting = select.select(polls, [], [], 0)[0]
        assert len(waiting) == SLOW_CLIENTS - THREADS * 3 // 4, "those beyond three quarters are answered at once"
        assert all(json.loads(body)["status"] == "WAIT" for poll in polls for _, _, body in answers(poll))


def test_more_clients_than_places_keep_nobody_out(url: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with ExitStack() as connections:
        slow = [connections.enter_context(connect(url)) for _ in range(PLACES + 100)]
        assert accepted(url)
        assert slow[0].recv(1) == b""  # who has been idle longest made room


def test_a_request_that_is_never_whole_ends(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(POST)
        assert connection.recv(1) == b""


_FRAGMENT = st.binary(max_size=20) | st.sampled_from(
    [
        *(POST, GET, LENGTH, BODY, CHUNKED, CHUNKS, b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b"5\r\nhello\r\n"),
        *(b"HTTP/1.0", b"Host: y\r\n", b"Content-Length: 3\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fragments=st.lists(_FRAGMENT, max_size=8))
def test_no_bytes_break_it(either: str, url: str, fragments: list[bytes]) -> None:
    with connect(either) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"".join(fragments))
            connection.shutdown(socket.SHUT_WR)
        for status, headers, body in answers(connection):
            assert status in (100, 202) or 400 <= status < 500
            if status >= 400 and either == url:
                assert headers["content-type"] == "application/json"
                assert json.loads(body)["code"]
    assert httpx.get(either + "/nothing").status_code == 404


def test_gunicorn_itself_believes_no_header(bare: str) -> None:
    headers = {"SCRIPT_NAME": "/spoofed", "X-Forwarded-Proto": "https", "X-Forwarded-SSL": "on"}
    moved = httpx.get(bare + "/", headers=headers)
    assert (moved.status_code, moved.headers["Location"]) == (302, FORM)


def test_stop_lets_an_accepted_submission_finish(web_app: Callable[..., Any], stack: Any) -> None:
    kafka = psutil.Process(stack.supervisor.states()["kafka"]["pid"])
    with web_app() as url:
        httpx.get(url + FORM)
        [server] = [each for each in psutil.Process().children() if httpx.URL(url).port in _ports(each)]
        kafka.suspend()
        try:
            with connect(url) as connection:
                connection.sendall(POST + LENGTH + BODY)
                httpx.get(url + "/nothing")  # answered after the server has read the flight, which waits for Kafka
                server.terminate()
                while accepts_connections(url):
                    time.sleep(0.01)
                kafka.resume()
                [(status, _, _)] = answers(connection)
        finally:
            kafka.resume()
        server.wait(20)

    assert status in (202, 503)  # 503 where Kafka woke too late; a stop that cuts requests off gives no answer at all


def accepts_connections(url: str) -> bool:
    try:
        connect(url).close()
    except ConnectionError:
        return False
    return True


def _ports(process: psutil.Process) -> set[int]:
    return {each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize(
    ("path", "found"),
    [("/status", "Seen at [0-9:]+"), ("/metrics", ".*_status_timestamp_seconds [0-9.e+]+"), ("/healthz", "ok")],
)
@pytest.mark.parametrize("name", ["kafka", "mongo"])
def test_a_crowd_that_asks_how_it_does_holds_up_no_flight(
    url: str, stack: Any, name: str, path: str, found: str
) -> None:
    """While the service hangs, finding out takes seconds: the crowd hears what was found before."""

    def read() -> str | None:
        values = re.findall(found, httpx.get(url + path, timeout=30).text)
        return values[-1] if values else None

    def settled() -> str | None:
        """A value that no reading, started before, changes any more."""
        value = read()
        time.sleep(0.75 * FRESH_SECONDS)
        return value if read() == value else None

    before = until(settled, 60, "what there is to be found")
    service = psutil.Process(stack.supervisor.states()[name]["pid"])
    with ExitStack() as at_the_end:
        service.suspend()
        at_the_end.callback(service.resume)
        until(lambda: service.status() == psutil.STATUS_STOPPED, 30, "the stop")
        time.sleep(FRESH_SECONDS)
        crowd = [at_the_end.enter_context(connect(url)) for _ in range(CROWD)]
        for connection in crowd:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        begin = time.monotonic()
        assert httpx.post(url + SUBMIT, data=FLIGHT, timeout=60).status_code == 503
        assert time.monotonic() - begin < 20, "a crowd of /healthz once took 30 s"
        heard = [body for connection in crowd for _, _, body in answers(connection)]
    assert len(heard) == CROWD
    assert any(before.encode() in body for body in heard), "all waited for the service"
    until(lambda: accepted(url), 60, "the flights")
