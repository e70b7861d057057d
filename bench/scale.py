"""`make scale`: what 0.3 to 5.7 million flights cost, from the Bureau's zip files to a model; writes docs/scale.md.

Flights are drawn from the real ones of 2013, month by month and with replacement, with a flight number by chance so
that each is another flight; they go the whole way as monthly zip files in the Bureau's layout. Each step runs in a
process of its own, whose memory (of the whole tree, RSS) is looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from bench import report
from bench.bts import write_month
from flight_delays import quality, records, training
from flight_delays.contract import BUCKETS
from flight_delays.settings import PROJECT, Settings
from flight_delays.sources import Status
from flight_delays.sources.bts import Bts
from flight_delays.sources.nycflights13 import NycFlights13

MILLIONS = (0.3, 1.0, 2.85, 5.7)
FIXED = 0.03
"""So few million flights show what a step costs before the first of them: starting Python, the JVM, Spark."""
MONTHS = [f"2013-{month:02}" for month in range(1, 13)]
STEPS = {
    "validate": "Reads the zips, checks each row, writes sorted Parquet",
    "quality": "Quality report",
    "publish": "Publishes",
    "train": "Trains and judges (driver)",
}
MAX_DRIVER_GIB = 4.0
MAX_GROWTH = 1.2


def generate(folder: Path, rows: int) -> None:
    """One zip a month in `folder`, `rows` flights in all (cancelled and diverted ones among them)."""
    source, chance = NycFlights13(), np.random.default_rng(rows)
    real = pd.concat(
        chunk.rows.assign(Cancelled=chunk.status == Status.CANCELLED, Diverted=chunk.status == Status.DIVERTED)
        for chunk in source.chunks(source.fetch(folder))
    )
    for month, flights in real.groupby(real["FlightDate"].dt.strftime("%Y-%m")):
        drawn = flights.iloc[chance.integers(0, len(flights), rows // len(MONTHS))]
        write_month(folder / f"{month}.zip", drawn.assign(FlightNum=chance.integers(1, 10_000, len(drawn))))


def step(name: str, folder: Path) -> None:
    """One step on the files of `folder`, in this process; `train` hands over to spark-submit."""
    logging.basicConfig(level=logging.WARNING)
    settings = Settings(home=folder / "var")
    stagings = sorted((settings.records / "staging").glob("*"))
    if name == "validate":
        for month in MONTHS:
            source = Bts(str(folder / "{year}-{month:02}.zip"), month)
            records.validate(source, source.fetch(folder), settings.records, months=month)
    elif name == "quality":
        quality.report(stagings, settings)
    elif name == "publish":
        records.publish(stagings, settings.records)
    else:
        raise ValueError(name)


def command(name: str, folder: Path) -> list[str]:
    """The command line of a step."""
    if name != "train":
        return [sys.executable, "-m", "bench.scale", "--step", name, "--folder", str(folder)]
    settings = Settings(home=folder / "var")
    manifest = records.read_manifest(settings.records)
    assert manifest is not None  # noqa: S101
    files = [str(settings.records / month.path) for month in manifest.months]
    import pyspark

    return [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        *("--master", settings.spark_master, "--driver-memory", settings.spark_driver_memory),
        str(PROJECT / "spark_jobs" / "train_model.py"),
        *("--output", str(folder / "model"), "--records", *files),
    ]
