"""Downloads that can be cut off, repeated and checked: what is there afterwards is whole, or nothing is."""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from flight_delays.data.sources.text import MAX_BYTES
from flight_delays.errors import DataError
from flight_delays.infra.files import move_durably, sha256_of, write_atomically

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Is told the bytes that are there and, where the server said so, those to come in all."""

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


@dataclass(frozen=True)
class _Origin:
    """Kept beside a file (or a part of one): where it came from, which version, and what it must look like."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    sha256: str | None = None
    bytes: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag or a date (RFC 9110, section 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def download(
    url_or_path: str | Path,
    target_dir: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 6,
    first_wait: float = 1.0,
) -> Downloaded:
    """The file at an http(s) URL, in `target_dir` under its own name; a local path or file:// is used in place.

    A file that is there and unchanged on the server is not fetched again; a transfer that was cut off goes on where
    it ended. Faults that may pass (connection, 408, 429, 5xx) are tried `attempts` times, waiting `first_wait` seconds,
    twice that, and so on. Without `progress`, a line is logged every 5 s.

    Raises NotFoundError, DataError (refused, or another checksum than `sha256`), TransferError (after all attempts).
    """
    from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

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
    return retrying(_fetch, str(url_or_path), target_dir / name, sha256 and sha256.lower(), progress or _logged(name))


def _local(path: Path, sha256: str | None) -> Downloaded:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise NotFoundError(f"{path} is not a file: expected a file's path or an http(s) URL")
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    _check(path, digest, sha256 and sha256.lower())
    return Downloaded(path, digest, path.stat().st_size, unchanged=True)


def _check(what: object, digest: str, expected: str | None) -> None:
    if expected and digest != expected:
        raise DataError(f"{what} has SHA-256 {digest}, expected {expected}: it is another file, or the checksum is old")


def _fetch(url: str, target: Path, sha256: str | None, progress: Progress) -> Downloaded:
    """One attempt."""
    import httpx

    part = target.with_name(target.name + ".part")
    known, begun = _read_origin(target), _read_origin(part)
    headers = {"Accept-Encoding": "identity"}  # the length on the wire is then the file's
    if known and (known.url, known.bytes, known.sha256) == (url, target.stat().st_size, sha256_of(target)):
        done = Downloaded(target, known.sha256 or "", known.bytes or 0, known.etag, unchanged=True)
        if sha256 == done.sha256:
            return _in_use(done)
        headers |= {"If-None-Match": known.etag} if known.etag else {}
        headers |= {"If-Modified-Since": known.last_modified} if known.last_modified else {}
    if begun and begun.url == url and begun.validator:
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": begun.validator}
    try:
        timeout = httpx.Timeout(60, connect=10)
        with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED:
                _check(url, done.sha256, sha256)
                return _in_use(done)
            origin = _receive(response, url, part, progress)
    except httpx.TransportError as error:
        if _untrusted(error):
            raise DataError(
                f"{url}: the server's certificate is refused ({error}): correct the URL, or name the file with the "
                "certificate of the authority that signed it in SSL_CERT_FILE"
            ) from error
        raise TransferError(f"{url}: {error or type(error).__name__}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    digest = sha256_of(part)
    try:
        _check(url, digest, sha256)
    except DataError:
        part.unlink()
        raise
    size = part.stat().st_size
    move_durably(part, target)
    _write_origin(target, _Origin(url, origin.etag, origin.last_modified, digest, size))
    _sidecar(part).unlink(missing_ok=True)
    return Downloaded(target, digest, size, origin.etag)


def _untrusted(error: BaseException | None) -> bool:
    """Whether a certificate was the reason: that does not pass by itself."""
    return isinstance(error, ssl.SSLCertVerificationError) or (
        error is not None and _untrusted(error.__cause__ or error.__context__)
    )


def _in_use(done: Downloaded) -> Downloaded:
    """Marks it as used now: what nobody used for long is removed one day."""
    for path in (done.path, _sidecar(done.path)):
        os.utime(path)
    return done


def _receive(response: httpx.Response, url: str, part: Path, progress: Progress) -> _Origin:
    """Writes the body to `part`, behind what is there if the server agrees to go on; returns once it is complete."""
    status, headers = response.status_code, response.headers
    origin = _Origin(url, headers.get("ETag"), headers.get("Last-Modified"))
    offset = 0
    if status == 206:
        resumed = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
        offset = part.stat().st_size
        if not resumed or int(resumed[1]) != offset:
            part.unlink()
            raise TransferError(f"{url}: the server answered with another range than asked for")
    elif status == 416:  # the part is longer than the file
        part.unlink()
        raise TransferError(f"{url}: the server cannot go on at the place asked for")
    elif status in (404, 410):
        raise NotFoundError(f"{url} does not exist (HTTP {status})")
    elif status in _TRANSIENT:
        raise TransferError(f"{url}: HTTP {status}")
    elif status != 200:
        raise DataError(f"{url} cannot be downloaded: the server answered HTTP {status}")
    else:
        part.unlink(missing_ok=True)
        _write_origin(part, origin)
    length = headers.get("Content-Length")
    total = offset + int(length) if length else None
    size = offset
    with part.open("ab") as file:
        for data in response.iter_raw():
            file.write(data)
            size += len(data)
            if size > MAX_BYTES:
                part.unlink()
                raise DataError(f"{url} is larger than {MAX_BYTES:,} bytes: it is refused")
            progress(size, total)
    if total is not None and size != total:
        raise TransferError(f"{url}: cut off after {size} of {total} bytes")
    return origin


def _logged(name: str) -> Progress:
    last = time.monotonic()

    def progress(size: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_SECONDS:
            last = time.monotonic()
            share = f" of {total / 1e6:.1f} MB ({size / total:.0%})" if total else " MB"
            log.info("%s: %.1f%s", name, size / 1e6, share)

    return progress


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".origin.json")


def _read_origin(path: Path) -> _Origin | None:
    """Where the file came from; None without the file, or without a note that can be read."""
    try:
        return _Origin(**json.loads(_sidecar(path).read_text())) if path.is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def _write_origin(path: Path, origin: _Origin) -> None:
    write_atomically(_sidecar(path), json.dumps(asdict(origin)))
