"""docker/nginx.conf: what it passes on, what it replaces, its limits, TLS, and containers that come and go."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from email.message import Message
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flight_delays.settings import LOOPBACK
from tests.conftest import free_port
from tests.integration.line import until
from tests.web.form import FORM, RESPONSE, SUBMIT
from tests.web.nginx import CONFIGURATION, Names, Nginx, running_nginx
from webapp import MAX_BODY_BYTES
from webapp.predictions import MAX_WAIT_SECONDS

pytestmark = pytest.mark.integration

HERE = {"web": LOOPBACK, "airflow-apiserver": LOOPBACK}
UUID = "123e4567-e89b-12d3-a456-426614174000"
OTHER_CLIENT = "127.0.0.2"
CROWD = 1000
"""`limit_conn` of the file."""


class Upstream(http.server.BaseHTTPRequestHandler):
    """Notes what comes, and answers with a line now and another when it may."""

    came: ClassVar[list[tuple[str, Message, bytearray]]] = []
    go_on: ClassVar = threading.Event()

    def do_POST(self) -> None:
        body = bytearray()
        self.came.append((self.path, self.headers, body))
        body += self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"first\n")
        self.wfile.flush()
        self.go_on.wait(20)
        self.wfile.write(b"second\n")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Upstream) as server:
        threading.Thread(target=server.serve_forever).start()
        Upstream.go_on.set()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def nginx(upstream: int) -> Iterator[Nginx]:
    with running_nginx(Names(HERE), web=upstream, airflow=upstream) as nginx:
        yield nginx


def test_the_file_fits_the_web_app() -> None:
    text = CONFIGURATION.read_text()
    seconds = re.search(r"location / \{[^}]*web:5000;[^}]*proxy_read_timeout (\d+)s;", text)
    assert seconds
    assert int(seconds[1]) > MAX_WAIT_SECONDS
    assert f"client_max_body_size {MAX_BODY_BYTES // 1024}k;" in text
    assert f"than the {MAX_BODY_BYTES} bytes" in text


@pytest.mark.parametrize("port", ["port", "airflow"])
def test_a_client_chooses_none_of_the_headers_that_are_believed(nginx: Nginx, port: str) -> None:
    spoofed = ("For", "Host", "Port", "Prefix", "Proto")
    headers = {f"X-Forwarded-{name}": "spoofed" for name in spoofed} | {"Forwarded": "for=spoofed", "Host": "flights:7"}
    assert httpx.post(f"http://{LOOPBACK}:{getattr(nginx, port)}/a%2Fb//c?d=%20", headers=headers).text.endswith(
        "second\n"
    )

    path, came, _ = Upstream.came[-1]
    assert path == "/a%2Fb//c?d=%20"
    assert "spoofed" not in str(came)
    ours = {name: came[name] for name in ("Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")}
    assert [*ours.values()] == ["flights:7", LOOPBACK, "flights:7", "http"]


def test_airflow_streams_lines_and_takes_larger_bodies(nginx: Nginx) -> None:
    Upstream.go_on.clear()
    try:
        url = f"http://{LOOPBACK}:{nginx.airflow}/api/v2/x"
        with httpx.stream("POST", url, content=b"a" * 100_000) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "first"
            Upstream.go_on.set()
            assert next(lines) == "second"
    finally:
        Upstream.go_on.set()
    assert len(Upstream.came[-1][2]) == 100_000
    assert httpx.post(url, content=b"a" * 2_000_000).status_code == 413
    assert httpx.post(f"http://{LOOPBACK}:{nginx.airflow}/execution/x").status_code == 404


def test_a_request_is_passed_on_when_it_is_whole(nginx: Nginx) -> None:
    came = len(Upstream.came)
    with closing(http.client.HTTPConnection(LOOPBACK, nginx.port, timeout=30)) as client:
        client.putrequest("POST", "/")
        client.putheader("Content-Length", "2")
        client.endheaders(b"a")
        time.sleep(1)
        assert len(Upstream.came) == came
        client.send(b"b")
        assert client.getresponse().status == 200
    assert Upstream.came[-1][2] == b"ab"


def test_one_address_cannot_take_all_connections(nginx: Nginx) -> None:
    def ask(source: str) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
            answer = client.post(nginx.url)
        if answer.status_code == 429:
            assert answer.json()["code"] == "too_many_connections"
            assert answer.headers["Retry-After"] == "2"
        return answer.status_code

    with ExitStack() as connections:
        for _ in range(CROWD):
            crowd = connections.enter_context(socket.create_connection((LOOPBACK, nginx.port)))
            crowd.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
        until(lambda: ask(LOOPBACK) == 429, 10, "the limit")
        assert ask(OTHER_CLIENT) == 200
    until(lambda: ask(LOOPBACK) == 200, 30, "room again")


def test_a_web_app_that_comes_later_or_elsewhere_is_found(web_app: Callable[..., Any]) -> None:
    names, port = Names(), free_port()
    with running_nginx(names, web=port) as nginx:

        def found() -> bool:
            answer = httpx.get(nginx.url + FORM, timeout=30)
            if not answer.is_success:
                assert (answer.status_code, answer.json()["code"]) == (503, "web_unavailable")
                assert answer.headers["Retry-After"] == "2"
            return answer.is_success

        assert not found()
        polled = httpx.get(f"{nginx.url}{RESPONSE}{UUID}?wait=1").json()
        assert (polled["code"], polled["status"], polled["id"]) == ("web_unavailable", "WAIT", UUID)
        for address in (LOOPBACK, "127.0.0.3"):
            with web_app(FLIGHTS_PORT_WEB=str(port), FLIGHTS_WEB_BIND=address, FLIGHTS_WEB_PROXIES="1"):
                names.addresses["web"] = address
                until(found, 20, "the web app")
            until(lambda: not found(), 20, "its end")


def test_a_rate_limit_is_one_for_each_client(web_app: Callable[..., Any]) -> None:
    with (
        web_app(FLIGHTS_WEB_PROXIES="1", FLIGHTS_WEB_RATE_LIMIT="1/hour") as url,
        running_nginx(Names(HERE), web=httpx.URL(url).port or 80) as nginx,
    ):
        for source, expected in ((LOOPBACK, 400), (LOOPBACK, 429), (OTHER_CLIENT, 400), (OTHER_CLIENT, 429)):
            with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
                answer = client.post(nginx.url + SUBMIT, headers={"X-Forwarded-For": "192.0.2.1"})
            assert (source, answer.status_code) == (source, expected)


def test_pages_are_compressed(web_app: Callable[..., Any]) -> None:
    with web_app(FLIGHTS_WEB_PROXIES="1") as url, running_nginx(Names(HERE), web=httpx.URL(url).port or 80) as nginx:
        page = httpx.get(nginx.url + FORM)
    assert page.headers["Content-Encoding"] == "gzip"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert int(page.headers.get("Content-Length", 0)) < len(page.content) / 2


def test_a_certificate_turns_tls_on(upstream: int, tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    with running_nginx(Names(HERE), web=upstream, airflow=upstream, tls=tmp_path) as nginx:
        trusting = ssl.create_default_context(cafile=certificate)
        for port in (nginx.port, nginx.airflow):
            assert httpx.post(f"https://localhost:{port}/", verify=trusting).status_code == 200
            assert Upstream.came[-1][1]["X-Forwarded-Proto"] == "https"
            assert httpx.post(f"http://localhost:{port}/").status_code == 400


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return folder / "cert.pem"
