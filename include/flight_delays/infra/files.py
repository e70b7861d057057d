"""Files that are whole or absent, whatever interrupts their writer: atomic writes, checksums, locks, sweeps."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from flight_delays.errors import DataError

_MAX_JSON_BYTES: Final = 32 << 20
_Model = TypeVar("_Model", bound=BaseModel)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file's text as one step that survives a crash: readers see the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    move_durably(temporary, path)


def write_private(path: Path, text: str) -> None:
    """The same for a file that only its owner may read; a file with that text is left alone.

    So the commands that only read still work on a full disk.
    """
    with suppress(FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text(encoding="utf-8") == text:
            return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    move_durably(temporary, path)


def move_durably(source: Path, target: Path) -> None:
    """Renames a file, replacing `target`, with its bytes and its name on disk when this returns."""
    sync(source)
    source.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, kind: type[_Model]) -> _Model:
    """The file's content as `kind`. Raises FileNotFoundError, and DataError where it is unreadable."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1)
        if len(text) > _MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {_MAX_JSON_BYTES:,} bytes")
        return kind.model_validate_json(text)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged ({': '.join(filter(None, (place, first['msg'])))})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error})") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock file: one process at a time; the lock ends with the process.

    Without `wait`, raises BlockingIOError while another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def sweep(folder: Path, older_than_seconds: float, *, dry_run: bool = False) -> list[str]:
    """Removes the folders in `folder` that were not written for that time; returns their names."""
    limit = time.time() - older_than_seconds
    leftovers = sorted(path for path in folder.glob("*") if path.stat().st_mtime < limit)
    for leftover in [] if dry_run else leftovers:
        shutil.rmtree(leftover, ignore_errors=True)  # another process may remove it, too
    return [leftover.name for leftover in leftovers]
