"""Downloads against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import hashlib
import logging
import random
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_delays.data.sources.download import Downloaded, NotFoundError, TransferError, download
from flight_delays.errors import DataError
from tests.unit.faulty_server import Server, serving

CONTENT = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(200_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.content = CONTENT
        yield server


def fetch(server: Server, folder: Path, sha256: str | None = None) -> Downloaded:
    return download(server.url, folder, sha256=sha256, attempts=4, first_wait=0.01)


def test_a_file_is_fetched_whole_and_only_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "flight_delays.data.sources.download")
    monkeypatch.setattr("flight_delays.data.sources.download._LOG_EVERY_SECONDS", 0)
    first = fetch(server, tmp_path / "new")
    assert first.path == tmp_path / "new" / "flights.bin"
    assert first.path.read_bytes() == CONTENT
    assert first.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (first.bytes, first.unchanged, first.etag) == (len(CONTENT), False, server.etag)
    assert caplog.messages[-1] == "flights.bin: 0.3 of 0.3 MB (100%)"

    again = fetch(server, tmp_path / "new")
    assert (again.unchanged, again.sha256) == (True, first.sha256)
    assert server.requests[-1]["If-None-Match"] == server.etag

    server.content = OTHER
    changed = fetch(server, tmp_path / "new")
    assert not changed.unchanged
    assert changed.path.read_bytes() == OTHER
    assert not list((tmp_path / "new").glob("*.part*"))


def test_with_a_known_checksum_the_server_is_not_even_asked(server: Server, tmp_path: Path) -> None:
    digest = fetch(server, tmp_path).sha256
    assert fetch(server, tmp_path, digest.upper()).unchanged
    assert len(server.requests) == 1


def test_a_file_damaged_on_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path).path
    damaged = bytes([CONTENT[1000] ^ 1])  # one bit, whatever the byte was
    path.write_bytes(CONTENT[:1000] + damaged + CONTENT[1001:])
    assert not fetch(server, tmp_path).unchanged
    assert path.read_bytes() == CONTENT


def test_a_cut_transfer_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.faults = [("stop", 100_000), ("status", 503), ("stop", 50_000)]
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    first, _, third, fourth = server.requests
    assert "Range" not in first
    assert (third["Range"], third["If-Range"]) == ("bytes=100000-", server.etag)
    assert fourth["Range"] == "bytes=150000-"


def test_two_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path) -> None:
    server.faults = [("stop", 100_000)] * 4
    with pytest.raises(TransferError):
        download(server.url, tmp_path, attempts=1)
    server.content, server.faults = OTHER, []
    assert fetch(server, tmp_path).path.read_bytes() == OTHER


def test_a_truncated_body_is_never_taken_as_done(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    server.content, server.faults = OTHER, [("stop", 10)] * 4
    with pytest.raises(TransferError, match=r"flights\.bin"):
        fetch(server, tmp_path)
    assert len(server.requests) == 5
    assert (tmp_path / "flights.bin").read_bytes() == CONTENT
    assert (tmp_path / "flights.bin.part").stat().st_size == 40


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_faults_that_may_pass_are_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [("status", status)] * 3
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (410, NotFoundError), (403, DataError)])
def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int, error: type[Exception]) -> None:
    server.faults = [("status", status)] * 4
    with pytest.raises(error, match=f"HTTP {status}"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_part_that_the_server_refuses_is_dropped(server: Server, tmp_path: Path) -> None:
    server.faults = [("stop", 100_000), ("status", 416)]
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert "Range" not in server.requests[-1]


def test_a_wrong_checksum_leaves_the_good_file_alone(server: Server, tmp_path: Path) -> None:
    good = fetch(server, tmp_path)
    server.content = OTHER
    with pytest.raises(DataError, match=f"expected {good.sha256}.* checksum is old"):
        fetch(server, tmp_path / "elsewhere", good.sha256)
    assert not (tmp_path / "elsewhere" / "flights.bin").exists()
    with pytest.raises(DataError, match="SHA-256"):
        fetch(server, tmp_path, "0" * 64)
    assert good.path.read_bytes() == CONTENT


def test_nobody_listening_is_an_error_after_all_attempts(server: Server, tmp_path: Path) -> None:
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(TransferError, match="refused"):
        download(url, tmp_path, attempts=2, first_wait=0.01)


def test_a_certificate_that_nobody_trusts_is_final(server: Server, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    connections = []

    def handshake(name: object, *_: object) -> None:
        connections.append(name)

    context.sni_callback = handshake
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with pytest.raises(DataError, match=r"certificate is refused.*SSL_CERT_FILE"):
        download(server.url.replace("http:", "https:"), tmp_path, attempts=3, first_wait=0.01)
    assert len(connections) == 1


def test_a_file_without_an_end_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flight_delays.data.sources.download.MAX_BYTES", 100_000)
    with pytest.raises(DataError, match="larger than 100,000 bytes"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert not (tmp_path / "flights.bin.part").exists()


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "my flights.jsonl"
    path.write_bytes(b"{}\n")
    digest = hashlib.sha256(b"{}\n").hexdigest()
    for name in (path, str(path), path.as_uri()):
        assert download(name, tmp_path / "unused", sha256=digest) == Downloaded(path, digest, 3, unchanged=True)
    assert not (tmp_path / "unused").exists()
    with pytest.raises(NotFoundError, match="absent is not a file"):
        download(tmp_path / "absent", tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        download(path, tmp_path, sha256="0" * 64)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http:///x", "http://127.0.0.1/"])
def test_what_is_no_url_of_a_file_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an http\\(s\\) URL of a file"):
        download(url, tmp_path)
