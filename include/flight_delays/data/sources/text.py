"""Text files as people and servers give them: plain, .gz, .bz2 or the only CSV of a .zip; with limits, in any state."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from flight_delays.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_LINE_BYTES: Final = 64 << 10
"""A flight takes some 300 to 800 bytes."""
MAX_BYTES: Final = 4 << 30
"""Uncompressed. The largest file known, the original system's of 2015, has 1.5 GB."""

_BLOCK_BYTES: Final = 16 << 20
_DAMAGED: Final = (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, ValueError, RuntimeError)


@contextmanager
def open_text(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[io.BufferedReader]:
    """The uncompressed bytes of a text file, a few hundred KB of them in memory; each reader skips a byte order mark.

    Opening and reading raise DataError where the file is damaged, encrypted or of an unknown compression, has a line
    above `MAX_LINE_BYTES`, or is larger than `max_bytes` when uncompressed.
    """
    with ExitStack() as opened:
        with _explained(path):
            file = opened.enter_context(_uncompressed(path, opened))
        yield opened.enter_context(io.BufferedReader(_Limited(file, path, max_bytes), MAX_LINE_BYTES))


def read_csv(path: Path, columns: list[str], null: str, max_bytes: int = MAX_BYTES) -> Iterator[pd.DataFrame]:
    """The texts in those columns of a CSV file, some thousand rows at a time; `null` stands for an absent value.

    Raises DataError where the file cannot be read, is not in UTF-8, or lacks one of the columns.
    """
    import pyarrow as pa
    from pyarrow import csv

    options = csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[null],
    )
    try:
        with open_text(path, max_bytes) as file:
            for batch in csv.open_csv(file, csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=options):
                yield batch.to_pandas()
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:  # no CSV, other columns, not UTF-8
        raise DataError(
            f"{path} cannot be read: {error}. Expected are, in UTF-8 and with commas, the columns {', '.join(columns)}"
        ) from error


def check_zip(path: Path) -> None:
    """Raises DataError where the file is no whole zip with exactly one CSV that can be read."""
    with _explained(path), zipfile.ZipFile(path) as archive:
        _only_csv(path, archive)


def _uncompressed(path: Path, opened: ExitStack) -> IO[bytes]:
    match path.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path))
        case ".bz2":
            return bz2.open(path)
        case ".zip":
            archive = opened.enter_context(zipfile.ZipFile(path))
            return archive.open(_only_csv(path, archive))
        case _:
            return path.open("rb")


def _only_csv(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    # The Bureau's have a readme.html, too; what macOS packs has a twin of each file in __MACOSX/.
    names = archive.infolist()
    csvs = [each for each in names if each.filename.lower().endswith(".csv") and "__MACOSX/" not in each.filename]
    if len(csvs) != 1:
        found = ", ".join(each.filename for each in csvs[:5])
        raise DataError(f"{path} holds {len(csvs)} CSV files ({found}): exactly one is expected")
    if csvs[0].flag_bits & 1:
        raise DataError(f"{path}: {csvs[0].filename} is encrypted: a zip without a password is expected")
    if csvs[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python reads others without a bound
        raise DataError(
            f"{path}: {csvs[0].filename} has compression method {csvs[0].compress_type}: deflate, as `zip` makes it, "
            "is expected"
        )
    return csvs[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(
            f"{path} cannot be read: it is damaged or cut off ({error}); delete it and fetch it again"
        ) from error


class _Limited(io.RawIOBase):
    def __init__(self, file: IO[bytes], path: Path, max_bytes: int) -> None:
        self._file, self._path, self._max_bytes = file, path, max_bytes
        self._read = self._line = 0  # bytes in all, and since the last newline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _explained(self._path):
            data = self._file.read(min(len(buffer), MAX_LINE_BYTES))
        self._read += len(data)
        if self._read > self._max_bytes:
            raise DataError(f"{self._path} is larger than {self._max_bytes:,} bytes when uncompressed: it is refused")
        first = data.find(b"\n")
        if self._line + (first if first >= 0 else len(data)) > MAX_LINE_BYTES:
            raise DataError(f"{self._path} has a line of more than {MAX_LINE_BYTES:,} bytes: it is refused")
        self._line = self._line + len(data) if first < 0 else len(data) - data.rfind(b"\n") - 1
        buffer[: len(data)] = data
        return len(data)
