"""Downloads that can be cut off, repeated and checked: what is there afterwards is whole, or nothing is."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
_LOG_EVERY_SECONDS: Final = 5.0


class NotFoundError(DataError):
    """The server says that there is no such file (404, 410), or there is none at that path."""


class TransferError(ConnectionError):
    """The transfer failed for a reason that may pass: a later try goes on where this one ended."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is whole: `bytes` long, `sha256` in hex; `unchanged` where nothing had to be fetched."""

    path: Path
    sha256: str
    bytes: int
    etag: str | None = None
    unchanged: bool = False


class _Origin(BaseModel):
    """Kept beside a file (or a part of one): where it came from, which version, and the whole file's checksum."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag or a date (RFC 9110, section 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def download(
    url_or_path: str | Path,
    target_dir: Path,
    *,
    sha256: str | None = None,
    attempts: int = 6,
    first_wait: float = 1.0,
) -> Downloaded:
    """The file at an http(s) URL, in `target_dir` under its own name; a local path or file:// is used in place.

    A file that is there and unchanged on the server is not fetched again; a transfer that was cut off goes on where
    it ended. Faults that may pass (connection, 408, 429, 5xx) are tried `attempts` times, waiting `first_wait` seconds,
    twice that, and so on.

    Raises NotFoundError, DataError (refused, or another checksum than `sha256`), TransferError (after all attempts).
    """
    from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

    sha256 = sha256 and sha256.lower()
    parts = urlsplit(str(url_or_path))
    if parts.scheme in ("", "file"):
        return _local(Path(unquote(parts.path)) if parts.scheme else Path(url_or_path), sha256)
    name = Path(unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise DataError(f"{url_or_path} cannot be downloaded: an http(s) URL of a file, or a path, is expected")
    target_dir.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(TransferError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=first_wait, max=60),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return retrying(_fetch, str(url_or_path), target_dir / name, sha256)


def _local(path: Path, sha256: str | None) -> Downloaded:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise NotFoundError(f"{path} is not a file: expected a file's path or an http(s) URL")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    _check(path, digest, sha256)
    return Downloaded(path, digest, path.stat().st_size, unchanged=True)


def _check(what: object, digest: str | None, expected: str | None) -> None:
    if expected and digest != expected:
        raise DataError(f"{what} has SHA-256 {digest}, expected {expected}: it is another file, or the checksum is old")


def _fetch(url: str, target: Path, sha256: str | None) -> Downloaded:
    """One attempt."""
    import httpx

    part = target.with_name(target.name + ".part")
    known = _read_origin(target)
    if known and (known.url, known.sha256) != (url, sha256_of(target)):
        known = None
    if known and known.sha256 == sha256:
        return _in_use(target, known)
    client = httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=True)
    with _explained(url), client, client.stream("GET", url, headers=_headers(url, known, part)) as response:
        if response.status_code == httpx.codes.NOT_MODIFIED and known:
            _check(url, known.sha256, sha256)
            return _in_use(target, known)
        origin = _receive(response, url, part)
    digest = sha256_of(part)
    try:
        _check(url, digest, sha256)
    except DataError:
        part.unlink()
        raise
    move_durably(part, target)
    _write_origin(target, origin.model_copy(update={"sha256": digest}))
    _sidecar(part).unlink(missing_ok=True)
    return Downloaded(target, digest, target.stat().st_size, origin.etag)


def _headers(url: str, known: _Origin | None, part: Path) -> dict[str, str]:
    """Asks for the file unless it is the one that is `known`, and only for what is missing in `part`."""
    headers: dict[str, str | None] = {"Accept-Encoding": "identity"}  # the length on the wire is then the file's
    if known:
        headers |= {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    if (begun := _read_origin(part)) and begun.url == url and begun.validator:
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": begun.validator}
    return {name: value for name, value in headers.items() if value}


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Raises TransferError for httpx's errors that may pass, and DataError for the others."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        if _untrusted(error):
            raise DataError(
                f"{url}: the server's certificate is refused ({error}): correct the URL, or name the file with the "
                "certificate of the authority that signed it in SSL_CERT_FILE"
            ) from error
        raise TransferError(f"{url}: {error or type(error).__name__}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error


def _untrusted(error: BaseException | None) -> bool:
    """Whether a certificate was the reason: that does not pass by itself."""
    return isinstance(error, ssl.SSLCertVerificationError) or (
        error is not None and _untrusted(error.__cause__ or error.__context__)
    )


def _in_use(path: Path, origin: _Origin) -> Downloaded:
    """Marks the file as used now, as maintenance removes what was not used for long."""
    for each in (path, _sidecar(path)):
        os.utime(each)
    return Downloaded(path, origin.sha256 or "", path.stat().st_size, origin.etag, unchanged=True)


def _receive(response: httpx.Response, url: str, part: Path) -> _Origin:
    """Writes the body to `part`, behind what is there if the server agrees to go on; returns once it is complete."""
    status, headers = response.status_code, response.headers
    origin = _Origin(url=url, etag=headers.get("ETag"), last_modified=headers.get("Last-Modified"))
    size = part.stat().st_size if part.is_file() else 0
    if status == 200:
        size = 0
        part.unlink(missing_ok=True)
        _write_origin(part, origin)
    elif status != 206 or not headers.get("Content-Range", "").startswith(f"bytes {size}-"):
        raise _refusal(url, status, part)
    total = size + int(headers["Content-Length"]) if "Content-Length" in headers else None
    logged = time.monotonic()
    with part.open("ab") as file:
        for data in response.iter_raw():
            file.write(data)
            size += len(data)
            if size > MAX_BYTES:
                part.unlink()
                raise DataError(f"{url} is larger than {MAX_BYTES:,} bytes: it is refused")
            if time.monotonic() - logged >= _LOG_EVERY_SECONDS:
                logged = time.monotonic()
                share = f" of {total / 1e6:.1f} MB ({size / total:.0%})" if total else " MB"
                log.info("%s: %.1f%s", part.stem, size / 1e6, share)
    if total is not None and size != total:
        raise TransferError(f"{url}: cut off after {size} of {total} bytes")
    return origin


def _refusal(url: str, status: int, part: Path) -> Exception:
    if status in (206, 416):  # another range than asked for; or the part is longer than the file
        part.unlink(missing_ok=True)
        return TransferError(f"{url}: the server cannot go on at the place asked for")
    if status in (404, 410):
        return NotFoundError(f"{url} does not exist (HTTP {status})")
    if status in _TRANSIENT:
        return TransferError(f"{url}: HTTP {status}")
    return DataError(f"{url} cannot be downloaded: the server answered HTTP {status}")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".origin.json")


def _read_origin(path: Path) -> _Origin | None:
    """Where the file came from; None without the file, or without a note that can be read."""
    try:
        return read_json(_sidecar(path), _Origin) if path.is_file() else None
    except (OSError, DataError):
        return None


def _write_origin(path: Path, origin: _Origin) -> None:
    write_atomically(_sidecar(path), origin.model_dump_json())
