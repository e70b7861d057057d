"""docs/benchmarks.md and its plots, from the results of one run."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from flight_delays.settings import PROJECT, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.results import BatchDuration, Results

_MARKS = {True: "reached", False: "**missed**", None: ""}


def machine() -> str:
    """What was measured on: processor, memory, system, versions, commit and date."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = " with uncommitted changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else ""
    java = _output("java", "--version").splitlines()[0]
    memory = psutil.virtual_memory().total / 1024**3
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {java}. Commit {commit}{changed}, {dt.datetime.now(dt.UTC):%Y-%m-%d}. "
        f"Load of the machine before the run: {load:.1f}."
    )


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(results: Results, folder: Path) -> None:
    """Writes benchmarks.md into `folder`, and its plots into `folder`/images."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    if results.waits:
        _plot_waits(results.waits, images / "bench-latency.png")
    if results.durations:
        _plot_durations(results.durations, images / "bench-batch-duration.png")
    (folder / "benchmarks.md").write_text(_text(results))


def _text(results: Results) -> str:
    rows = "\n".join(f"| {row.what} | {row.measured} | {row.must} | {_MARKS[row.met]} |" for row in results.rows)
    durations = "\n".join(
        f"| {_seconds(one.seconds)} | {one.p50:,.0f} / {one.p99:,.0f} / {one.longest:,.0f} ms | {one.answered_again:,} "
        f"| {one.lost} | {one.server_seconds:.1f} s | {one.reconcile_seconds:.1f} s |"
        for one in results.durations
    )
    return f"""# Benchmarks

Written by `make bench` in one run of {results.minutes:.0f} minutes, on a stack of its own that shares the machine with
the load generator. {results.machine}

| what | measured | must reach | |
|---|---|---|---|
{rows}

A wait is counted from the moment at which the web app accepted the flight (202) to the moment at which its answer was
read over HTTP (`?wait=`). The load is open: flights leave on schedule, however slow the answers are; how long after
their scheduled time they were accepted is next to it. Latencies are of one long run, the rest are medians where a
range is given. Download caches: uv's and Ivy's as the machine had them.

![Distribution of the wait](images/bench-latency.png)

The original's way is `bench/original.py`: the same checks, features and model, but micro-batches that MongoDB's Spark
connector writes to MongoDB. A micro-batch pays for its planning, its entries in the checkpoint and its tasks before an
answer leaves; a real-time batch pays once in {_seconds(Settings.model_fields["realtime_batch_seconds"].default)}, and
answers in between as messages come.

Swaps are runs of the DAG `flight_delay_predictor` with `deploy`, to and fro between two models; the wait is that of
all flights from the first to the last of them. Time to repair counts from kill -9 to the first answer of a flight that
was sent after it; the process manager starts the process again, and the watch in Airflow's triggerer the query.

## How long a real-time batch lasts

At the end of a batch Spark writes its checkpoint and starts again: requests that arrive just then wait. After a crash
the new query begins at the first request without an answer; later ones may be answered again (the first answer stays,
so no client sees it). Each row: 10 requests a second through a roll-over or more; then as many requests as a batch
holds, kill -9 of the Spark Connect server, its restart, and `predictor.reconcile`.

| batch | p50 / p99 / longest | answered again | lost | server back after | first answer after `reconcile` |
|---|---|---|---|---|---|
{durations}

![Wait by the duration of a batch](images/bench-batch-duration.png)

{_choice(results.durations)}
"""


def _choice(durations: list[BatchDuration]) -> str:
    """Why the default is what it is, in figures."""
    default = Settings.model_fields["realtime_batch_seconds"].default
    chosen = next((one for one in durations if one.seconds == default), None)
    if chosen is None:
        return f"The default is {_seconds(default)} (not measured in this run)."
    p99 = {one.seconds: one.p99 for one in durations}
    slower = ", ".join(f"{_seconds(seconds)}: {value:,.0f} ms" for seconds, value in p99.items())
    return (
        f"The default (`FLIGHTS_REALTIME_BATCH_SECONDS`) is {_seconds(default)}. p99 by duration: {slower}. A crash "
        f"then costs {chosen.answered_again:,} answers given again at 10 requests a second, and the first answer comes "
        f"{chosen.reconcile_seconds:.0f} s after the repair begins."
    )


def _seconds(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds > 60 and seconds % 60 == 0 else f"{seconds} s"


def _plot_waits(waits: dict[str, list[float]], target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    for mode, seconds in waits.items():
        axes.ecdf([1000 * value for value in seconds], label=f"{mode} ({len(seconds):,})")
    axes.set(xscale="log", xlabel="ms from accepted to answered", ylabel="share of requests")
    axes.legend(loc="lower right", fontsize="small")
    _save(axes, target)
    plt.close(figure)


def _plot_durations(durations: list[BatchDuration], target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.5))
    seconds = [one.seconds for one in durations]
    axes.plot(seconds, [one.longest for one in durations], "o-", label="longest")
    axes.plot(seconds, [one.p99 for one in durations], "o-", label="p99")
    axes.plot(seconds, [one.p50 for one in durations], "o-", label="p50")
    axes.set(xscale="log", yscale="log", xlabel="s a batch lasts", ylabel="ms from accepted to answered")
    axes.set_xticks(seconds, [str(value) for value in seconds], minor=False)
    axes.legend(fontsize="small")
    _save(axes, target)
    plt.close(figure)


def _save(axes: Axes, target: Path) -> None:
    axes.grid(alpha=0.3, which="both")
    axes.figure.tight_layout()  # type: ignore[union-attr]
    axes.figure.savefig(target, dpi=110)  # type: ignore[union-attr]
