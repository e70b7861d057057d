"""Downloads against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_delays.data.sources.download import NotFoundError, TransferError, download
from flight_delays.errors import DataError
from tests.unit.faulty_server import Server, serving

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(200_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.content = CONTENT
        yield server


def fetch(server: Server, folder: Path, sha256: str | None = None) -> Path:
    return download(server.url, folder, sha256=sha256, attempts=4, first_wait=0.01)


def test_a_file_is_fetched_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path / "new")
    assert path == tmp_path / "new" / "flights.bin"
    assert path.read_bytes() == CONTENT

    assert fetch(server, tmp_path / "new") == path
    assert server.requests[-1]["If-None-Match"] == server.etag
    os.utime(path, (0, 0))
    assert fetch(server, tmp_path / "new").stat().st_mtime > 0, "maintenance sees that it is in use"

    server.content = OTHER
    assert fetch(server, tmp_path / "new").read_bytes() == OTHER
    assert not list((tmp_path / "new").glob("*.part*"))


def test_with_a_known_checksum_the_server_is_not_even_asked(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    assert fetch(server, tmp_path, DIGEST.upper()).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_file_damaged_on_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path)
    damaged = bytes([CONTENT[1000] ^ 1])  # one bit, whatever the byte was
    path.write_bytes(CONTENT[:1000] + damaged + CONTENT[1001:])
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_truncated_body_is_never_taken_as_done(server: Server, tmp_path: Path) -> None:
    server.faults = [("stop", 100_000), ("status", 503), ("stop", 50_000)]
    path = fetch(server, tmp_path)
    assert (path.read_bytes(), len(server.requests)) == (CONTENT, 4)
    server.content, server.faults = OTHER, [("stop", 10)] * 4
    with pytest.raises(TransferError, match=r"flights\.bin"):
        fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "flights.bin.part").exists()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_faults_that_may_pass_are_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [("status", status)] * 3
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (410, NotFoundError), (403, DataError)])
def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int, error: type[Exception]) -> None:
    server.faults = [("status", status)] * 4
    with pytest.raises(error, match=f"HTTP {status}"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_wrong_checksum_leaves_the_good_file_alone(server: Server, tmp_path: Path) -> None:
    good = fetch(server, tmp_path)
    server.content = OTHER
    with pytest.raises(DataError, match=f"expected {DIGEST}.* checksum is old"):
        fetch(server, tmp_path / "elsewhere", DIGEST)
    assert not (tmp_path / "elsewhere" / "flights.bin").exists()
    with pytest.raises(DataError, match="SHA-256"):
        fetch(server, tmp_path, "0" * 64)
    assert good.read_bytes() == CONTENT


def test_nobody_listening_is_an_error_after_all_attempts(server: Server, tmp_path: Path) -> None:
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(TransferError, match="refused"):
        download(url, tmp_path, attempts=2, first_wait=0.01)


def test_a_file_without_an_end_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flight_delays.data.sources.download.MAX_BYTES", 100_000)
    with pytest.raises(DataError, match="larger than 100,000 bytes"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert not (tmp_path / "flights.bin.part").exists()


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "my flights.jsonl"
    path.write_bytes(CONTENT)
    for name in (path, str(path), path.as_uri()):
        assert download(name, tmp_path / "unused", sha256=DIGEST) == path
    assert not (tmp_path / "unused").exists()
    with pytest.raises(NotFoundError, match="absent is not a file"):
        download(tmp_path / "absent", tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        download(path, tmp_path, sha256="0" * 64)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http:///x", "http://127.0.0.1/"])
def test_what_is_no_url_of_a_file_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an http\\(s\\) URL of a file"):
        download(url, tmp_path)
