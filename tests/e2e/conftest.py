"""A real Chromium, and a web app whose predictor is the test itself."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from flight_delays.settings import LOOPBACK, PROJECT

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium; without one the browser tests are skipped, but never in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        message = "no Chromium found: browser tests need chromium, chromium-browser or google-chrome on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page; the test fails when a script or the content security policy complained."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    page.close()
    assert problems == []


@contextmanager
def running_web_app(environment: dict[str, str], log: Path) -> Iterator[str]:
    """The web app as it runs in production, on a free port; gives its address."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--config", "webapp/gunicorn.conf.py", "webapp:create_app()"]
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("FLIGHTS_") and name != "MONGO_URI"
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**ours, **environment, "FLIGHTS_PORT_WEB": str(port)},
            stdout=output,
            stderr=output,
        )
        try:
            url = f"http://{LOOPBACK}:{port}"
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(url + "/nothing")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def web_app(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts the web app on the stack's Kafka and MongoDB, or on others; used as a context manager."""
    folder = tmp_path_factory.mktemp("web")
    found = stack.settings

    def start(*, kafka: str = found.kafka_bootstrap, mongo: str = found.mongo_uri) -> Any:
        environment = {"FLIGHTS_HOME": str(found.home), "FLIGHTS_KAFKA_BOOTSTRAP": kafka, "MONGO_URI": mongo}
        return running_web_app(environment, folder / f"{time.monotonic_ns()}.log")

    return start
