"""The page behind the web previews of Google Cloud Shell and GitHub Codespaces.

Both end TLS under a public name and pass the request on with a `Host` of their own: `127.0.0.1:5000` or
`localhost:5000`. The browser's `Origin` keeps the public name.
"""

from __future__ import annotations

import datetime as dt
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Browser, expect
from pymongo.database import Database

from flight_delays.contract import Collection
from tests.e2e.conftest import PREVIEWS
from tests.e2e.test_page import answer, submit
from tests.web.form import FORM

pytestmark = [pytest.mark.browser, pytest.mark.integration]

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Preview(BaseHTTPRequestHandler):
    """Passes a request on to `upstream`, with `host` in place of the public name."""

    protocol_version = "HTTP/1.1"
    upstream: str
    host: str

    def do_GET(self) -> None:
        """Reads the whole request, asks the web app, and returns its answer."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", *HOP_BY_HOP}}
        headers |= {"Host": self.host, "X-Forwarded-Host": self.headers["Host"], "X-Forwarded-Proto": "https"}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.upstream, timeout=60)
        upstream.request(self.command, self.path, body, headers)
        found = upstream.getresponse()
        content = found.read()
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in {"content-length", *HOP_BY_HOP}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """As GET, with a body."""
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing: the web app writes a log of its own."""


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate and its key, in one PEM file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "preview")])
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "preview.pem"
    file.write_bytes(secret + signed.public_bytes(pem))
    return file


@pytest.fixture(params=["127.0.0.1", "localhost"])
def preview(request: pytest.FixtureRequest, web_app: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """The public address of a web app of default settings; the browser resolves `PREVIEWS` to this machine."""
    with web_app() as url:
        port = urlsplit(url).port
        name = f"5000-cs-1-default{PREVIEWS}"
        handler = type("Handler", (Preview,), {"upstream": f"127.0.0.1:{port}", "host": f"{request.param}:{port}"})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tmp_path, name))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"https://{name}:{server.server_port}"
            server.shutdown()


def test_page_and_api_work_behind_a_web_preview(
    preview: str, mongo: Database[dict[str, Any]], browser: Browser
) -> None:
    page = browser.new_page(ignore_https_errors=True)
    page.goto(f"{preview}/?authuser=0")  # as Cloud Shell opens it
    assert page.url == preview + FORM
    mongo[Collection.RESPONSES].insert_one(answer(submit(page)))
    expect(page.locator("#label")).to_have_text("Very Late (30+ Minutes Late)")
    page.close()
