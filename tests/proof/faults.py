"""What can go wrong with running services, done to them on purpose, and the operator who repairs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from flight_delays.contract import RESPONSE_TOPIC
from flight_delays.infra import mongo
from flight_delays.infra.kafka import ends
from flight_delays.predictor import canary
from flight_delays.settings import Settings
from tests.conftest import Stack
from tests.integration.line import check, until
from tests.proof.witness import Witness

RECOVERY_SECONDS = 240.0
QUERY_CLASS = "org.apache.spark.sql.execution.streaming.runtime.StreamingQueryWrapper"
FOREST_CLASS = "org.apache.spark.ml.classification.RandomForestClassificationModel"


class Operator:
    """Repairs the predictor whenever its query is ill, as Airflow's watch does, where there is no Airflow.

    `repair` brings the champion back: `reconcile`.
    """

    def __init__(self, settings: Settings, repair: Callable[[], object]) -> None:
        self._settings = settings
        self._repair = repair
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="operator")
        self.repairs: list[str] = []

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(2):
            try:
                check(self._settings)
            except Exception as illness:  # noqa: BLE001 - MongoDB, the server or the query
                try:
                    self._repair()
                except Exception as error:  # noqa: BLE001 - noted, and tried again
                    self.repairs.append(f"failed: {error}")
                else:
                    self.repairs.append(str(illness))


@dataclass
class Phase:
    """One fault while flights flow: `begin` and `end` in `time.monotonic()`, `end` when flights are answered again."""

    name: str
    begin: float = field(default_factory=time.monotonic)
    end: float = 0.0


@cache
def can_mount() -> bool:
    """Whether small file systems can be mounted here: it needs root, and a container may forbid it all the same."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
        )
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return tried.returncode == 0


def missing_means() -> str:
    """What this machine lacks for these faults; "" where nothing."""
    mount = [] if can_mount() else ["the right to mount small file systems (root)"]
    return " and ".join(mount + ([] if shutil.which("cc") else ["a C compiler (for a clock that jumps)"]))


def process_of(stack: Stack, service: str) -> psutil.Process:
    """The process that does the service's work: of the web app a worker, not gunicorn's arbiter."""
    pid = until(lambda: stack.supervisor.states()[service]["pid"], 60, f"{service} to run")
    process = psutil.Process(pid)
    return process.children()[0] if service == "web" else process


def kill(stack: Stack, *services: str) -> None:
    """SIGKILL to all of them at once."""
    processes = [process_of(stack, service) for service in services]
    for process in processes:
        process.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Held:
    """What the Spark Connect server's memory holds: streaming queries, running or stopped, and trained forests."""

    queries: int
    forests: int


def held(stack: Stack) -> Held:
    """Counts live objects (`jcmd GC.class_histogram` collects garbage first)."""
    command = ["jcmd", str(process_of(stack, "spark-connect").pid), "GC.class_histogram"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    counts = {fields[3]: int(fields[1]) for line in lines if len(fields := line.split()) >= 4 and fields[1].isdigit()}
    return Held(counts.get(QUERY_CLASS, 0), counts.get(FOREST_CLASS, 0))


def freeze(stack: Stack, service: str, seconds: float) -> None:
    """SIGSTOP to the service's processes for so long: alive, but silent."""
    process = process_of(stack, service)
    frozen = [process, *process.children(recursive=True)]
    for each in frozen:
        each.suspend()
    try:
        time.sleep(seconds)
    finally:
        for each in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


def fill_disk(folder: Path, seconds: float) -> None:
    """Leaves no byte free on the folder's file system for so long."""
    ballast = folder / "ballast"
    deadline = time.monotonic() + seconds
    try:
        with ballast.open("ab") as file:
            while time.monotonic() < deadline:  # what a service frees is taken too
                free = os.statvfs(folder)
                left = free.f_bavail * free.f_frsize
                if left:
                    with contextlib.suppress(OSError):
                        os.posix_fallocate(file.fileno(), file.tell(), left)
                        file.seek(0, os.SEEK_END)
                time.sleep(0.1)
    finally:
        ballast.unlink()


def fill_disk_of(stack: Stack, service: str, seconds: float) -> None:
    """Leaves the service no room to write for so long.

    MongoDB could write on in free room inside of its file: that is used up, too. Raises AssertionError where it never
    refused a write all the same.
    """
    folder = stack.settings.home / service
    if service == "mongo":
        fill_store(stack.settings, folder, seconds)
    else:
        fill_disk(folder, seconds)


def fill_store(settings: Settings, folder: Path, seconds: float) -> None:
    """See `fill_disk_of`."""
    over, refused = threading.Event(), threading.Event()
    ballast = mongo.connect(settings, timeoutMS=1000)["ballast"]

    def write() -> None:
        while not over.is_set():
            try:
                ballast.insert_one({"ballast": os.urandom(64 * 1024)})
            except PyMongoError:
                refused.set()
                over.wait(0.5)

    writer = threading.Thread(target=write, name="ballast")
    writer.start()
    try:
        fill_disk(folder, seconds)
    finally:
        over.set()
        writer.join()
        until(lambda: _dropped(ballast), 60, "the ballast to go")
    assert refused.is_set(), "MongoDB wrote on although its disk was full"


def _dropped(collection: Collection[dict[str, Any]]) -> bool:
    try:
        collection.drop()
    except PyMongoError:  # it starts anew
        return False
    return True


@contextmanager
def small_disks(folders: dict[Path, int]) -> Iterator[None]:
    """Small file systems of their own (MiB each) at these folders, where they can be mounted."""
    mounted: list[Path] = []
    if not can_mount():
        folders = {}
    try:
        for folder, mib in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
            mounted.append(folder)
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


class Clock:
    """The wall clock of processes that start within `worn`: `jump` moves it while they run. Needs a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._library, self._offset = folder / "jumping_clock.so", folder / "clock"
        source = Path(__file__).with_name("jumping_clock.c")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._offset.write_bytes(struct.pack("q", 0))

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Processes that are started within have this clock."""
        variables = {"LD_PRELOAD": str(self._library), "JUMPING_CLOCK": str(self._offset)}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name in variables:
                del os.environ[name]

    def jump(self, seconds: int) -> None:
        """The wall clock is so far off from now on."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("q", seconds))


def recovered(witness: Witness, since: float) -> None:
    """Returns once a flight that left after `since` was answered. AssertionError where none is in time."""
    until(lambda: witness.answered_since(since), RECOVERY_SECONDS, "an answer to a flight that left after the fault")
    print(f"answered again {time.monotonic() - since:.1f} s after the fault", flush=True)


def answering(settings: Settings, seconds: float = 3) -> set[int]:
    """The deployments that answer canaries within so long."""
    begins = ends(settings, RESPONSE_TOPIC)
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "tests"})
    consumer.assign([TopicPartition(RESPONSE_TOPIC, number, offset) for number, offset in enumerate(begins)])
    sent = set(canary.send_canaries(settings))
    found = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (message := consumer.poll(0.2)) is not None and message.error() is None:
            answer = json.loads(message.value())
            if answer["UUID"] in sent:
                found.add(answer["Deployment"])
    consumer.close()
    return found


def orphans(home: Path, root: int) -> list[str]:
    """Processes of this installation that the process manager `root` no longer knows."""
    try:
        known = {root, *(child.pid for child in psutil.Process(root).children(recursive=True))}
    except psutil.NoSuchProcess:
        known = set()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in known and process.environ().get("FLIGHTS_HOME") == str(home):
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
    return found
