"""A real Chromium, and a web app whose predictor is the test itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=20_000)  # the default of 5 s is little on a busy machine

PREVIEWS = ".preview.example"
"""The domain of the public names that lead to this machine."""
FLAGS = [
    f"--host-resolver-rules=MAP *{PREVIEWS} 127.0.0.1",
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")  # Playwright's event loop would be in the way of tests after these
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
