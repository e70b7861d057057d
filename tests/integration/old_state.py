"""The state that release 0.1.0 left behind (tests/data/make_state.py made it), and its services without Airflow."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flight_delays.settings import PROJECT, Settings
from stack import artifacts, state
from stack.secrets import Secrets, load_secrets
from stack.services import services
from stack.supervisor import Supervisor
from stack.up import finish_restore
from tests.conftest import Stack

ARCHIVE = PROJECT / "tests" / "data" / "state-0.1.0.tar.xz"


def _expected() -> dict[str, Any]:
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile("expected.json")
        assert file is not None
        return json.load(file)


EXPECTED = _expected()
"""What is in it: `answers` by UUID as the web app gave them, `pending` UUIDs, `champion`, `generation`, `distances`."""


def unpack(settings: Settings) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(settings.home, filter="data")
    Path(settings.home / "expected.json").unlink()
    secrets = {name: value for name, value in asdict(Secrets()).items() if name != "spark_connect_token"}
    (settings.home / "secrets.json").write_text(json.dumps(secrets | {"supervisor_password": "old"}))


@contextmanager
def running(settings: Settings, *without: str) -> Iterator[Stack]:
    """Starts what `make up` starts, but Airflow and these services, and stops it at the end."""
    state.migrate(settings)
    secrets = load_secrets(settings)
    artifacts.fetch(settings)
    supervisor = Supervisor(settings)
    wanted = [each for each in services(settings, secrets) if not each.name.startswith(("airflow", *without))]
    stack = Stack(settings, supervisor, secrets)
    supervisor.start(wanted)
    try:
        finish_restore(settings, supervisor, wanted)
        for service in wanted:
            stack.await_ready(service.name)
        yield stack
    finally:
        supervisor.stop()
