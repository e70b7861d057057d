"""Downloads that can be cut off, repeated and checked: what is there afterwards is whole, or nothing is."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from flight_delays.data.sources.text import MAX_BYTES
from flight_delays.errors import DataError
from flight_delays.infra.files import move_durably, read_json, sha256_of, write_atomically

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class NotFoundError(DataError):
    """The server says that there is no such file (404, 410), or there is none at that path."""


class TransferError(ConnectionError):
    """The transfer failed for a reason that may pass."""


class _Origin(BaseModel):
    """Kept beside a file: where it came from, which version it is, and its checksum."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    sha256: str


def download(
    url_or_path: str | Path, folder: Path, *, sha256: str | None = None, attempts: int = 6, first_wait: float = 1.0
) -> Path:
    """The file at an http(s) URL, in `folder` under its own name; a local path or file:// is used in place.

    A file that is there and unchanged on the server is not fetched again. Faults that may pass (connection, 408, 429,
    5xx) are tried `attempts` times, waiting `first_wait` seconds, twice that, and so on.

    Raises NotFoundError, DataError (refused, or another checksum than `sha256`), TransferError (after all attempts).
    """
    from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

    sha256 = sha256 and sha256.lower()
    parts = urlsplit(str(url_or_path))
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else url_or_path).expanduser().absolute()
        if not path.is_file():
            raise NotFoundError(f"{path} is not a file: expected a file's path or an http(s) URL")
        _check(path, sha256 and sha256_of(path), sha256)
        return path
    name = Path(unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise DataError(f"{url_or_path} cannot be downloaded: an http(s) URL of a file, or a path, is expected")
    folder.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(TransferError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=first_wait, max=60),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return retrying(_fetch, str(url_or_path), folder / name, sha256)


def _check(what: object, digest: str | None, expected: str | None) -> None:
    if expected and digest != expected:
        raise DataError(f"{what} has SHA-256 {digest}, expected {expected}: it is another file, or the checksum is old")


def _fetch(url: str, target: Path, sha256: str | None) -> Path:
    """One attempt."""
    import httpx

    part, note = (target.with_name(target.name + end) for end in (".part", ".origin.json"))
    known = _known(url, target, note)
    if known and known.sha256 == sha256:
        return _in_use(target, note)
    headers = {"Accept-Encoding": "identity"}  # else the server might compress what the name says is a .csv
    if known:
        asked = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
        headers |= {name: value for name, value in asked.items() if value}
    client = httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=True)
    with _explained(url), client, client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.NOT_MODIFIED and known:
            _check(url, known.sha256, sha256)
            return _in_use(target, note)
        if response.status_code != httpx.codes.OK:
            raise _refusal(url, response.status_code)
        try:
            digest = _receive(response, part)
            _check(url, digest, sha256)
            move_durably(part, target)
        finally:
            part.unlink(missing_ok=True)
    version = {"etag": response.headers.get("ETag"), "last_modified": response.headers.get("Last-Modified")}
    write_atomically(note, _Origin(url=url, sha256=digest, **version).model_dump_json())
    return target


def _known(url: str, target: Path, note: Path) -> _Origin | None:
    """The note on the target; None without it, or where the target is from another URL, or damaged."""
    try:
        origin = read_json(note, _Origin)
        return origin if (origin.url, origin.sha256) == (url, sha256_of(target)) else None
    except (OSError, DataError):
        return None


def _in_use(*paths: Path) -> Path:
    """Marks a file and its note as used now, as maintenance removes what was not used for long."""
    for path in paths:
        os.utime(path)
    return paths[0]


def _receive(response: httpx.Response, part: Path) -> str:
    """Writes the body to `part` and returns its checksum; httpx raises an error where the body is cut off."""
    digest = hashlib.sha256()
    with part.open("wb") as file:
        for data in response.iter_raw():
            digest.update(data)
            file.write(data)
            if file.tell() > MAX_BYTES:
                raise DataError(f"{response.url} is larger than {MAX_BYTES:,} bytes: it is refused")
    return digest.hexdigest()


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Raises TransferError for httpx's errors that may pass, and DataError for the others."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise TransferError(f"{url}: {error or type(error).__name__}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error


def _refusal(url: str, status: int) -> Exception:
    if status in (404, 410):
        return NotFoundError(f"{url} does not exist (HTTP {status})")
    if status in _TRANSIENT:
        return TransferError(f"{url}: HTTP {status}")
    return DataError(f"{url} cannot be downloaded: the server answered HTTP {status}")
