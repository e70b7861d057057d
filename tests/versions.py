"""Version folders as the training job writes them, with scores of choice and no Spark."""

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flight_delays.model import model_card, promotion_checks
from flight_delays.model.registry import Bin, Comparison, Metadata, Params, Period, Scores

SCORES = Scores(rows=50, accuracy=0.5, macro_f1=0.5, log_loss=1.0, brier=0.6, calibration_error=0.02)
WORSE = SCORES.model_copy(update={"log_loss": 1.2})


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"champion"),
    "cut": lambda path: path.write_bytes(b'{"champion": "2026'),
    "another type": lambda path: path.write_bytes(b"[1]"),
    "wrong types": lambda path: path.write_bytes(b'{"champion": 3, "version": [], "months": 1, "trained_at": {}}'),
    "not UTF-8": lambda path: path.write_bytes(b'{"champion": "\xff"}'),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": lambda path: path.mkdir(),
    "a loop": lambda path: path.symlink_to(path),
    "huge": lambda path: (path.touch(), os.truncate(path, 8 << 30)),  # a sparse file
}
"""What may be where a file of JSON is expected."""


def sane(buckets: tuple[int, ...]) -> tuple[float, ...]:
    """Probabilities of which the first of the buckets has the most."""
    return tuple(0.7 if number == buckets[0] else 0.1 for number in range(4))


def metadata(day: int = 1, **changes: Any) -> Metadata:
    """Of a model that passes the checks where nobody serves yet."""
    found = Metadata(
        trained_at=dt.datetime(2026, 1, day, 4, 0, 7, 123_456, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        params=Params(trees=20, depth=5, seed=42, holdout_months=1, max_bins=32),
        categorical=("Carrier",),
        numeric=("DepDelay",),
        vocabulary={"Carrier": ["AA", "UA"]},
        training=Period(first=dt.date(2013, 1, 1), last=dt.date(2013, 1, 31), rows=100),
        holdout=Period(first=dt.date(2013, 2, 1), last=dt.date(2013, 2, 28), rows=50),
        fingerprint="f",
        code_version="v0.1.0",
        spark_version="4.2.0",
        metrics=SCORES,
        baselines={"commonest_bucket": WORSE},
        training_seconds=1.5,
        calibration=(Bin(confidence=0.4, accuracy=0.3, rows=20), Bin(confidence=0.8, accuracy=0.9, rows=30)),
        confusion=((5, 3, 2, 0), (4, 6, 2, 1), (1, 2, 7, 2), (0, 1, 2, 12)),
        by_carrier={"AA": SCORES, "<script>": WORSE},
        by_origin={"EWR": SCORES},
        importances={"DepDelay": 0.9, "Carrier": 0.1},
        golden={each.name: sane(each.most_likely) for each in promotion_checks.golden_requests()},
    )
    return found.model_copy(update=changes)


def beside(champion: str, ours: Scores = SCORES, theirs: Scores = SCORES, **changes: Any) -> Comparison:
    """A comparison with that champion."""
    return Comparison(version=champion, champion=theirs, challenger=ours, **changes)


def stage(folder: Path, *, day: int = 1, weights: str = "weights", **changes: Any) -> Path:
    """A folder as the training job writes it, Spark's checksum and marker files included."""
    found = metadata(day, **changes)
    data = folder / "pipeline" / "stages" / "0_Forest" / "data"
    data.mkdir(parents=True)
    (data / "part-00000.parquet").write_text(weights)
    (data / ".part-00000.parquet.crc").write_text("checksum")
    (data / "_SUCCESS").touch()
    model_card.write(folder, found)
    (folder / "metadata.json").write_text(found.model_dump_json())
    return folder
