"""Takes the docs' screenshots from the running stack: `.venv/bin/python docs/take_screenshots.py`.

Needs a Chromium on the PATH (Debian: the package chromium) and Playwright (`make lint` installs it).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from flight_delays.contract import DagId
from flight_delays.settings import LOOPBACK, get_settings
from stack.airflow_api import AirflowApi
from stack.secrets import load_secrets

IMAGES = Path(__file__).parent / "images"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def main() -> None:
    """Opens the pages as a person does and saves what is seen."""
    with chromium() as browser:
        form(browser, "form.png", 1280, 860)
        form(browser, "form-phone.png", 390, 1100)
        airflow(browser)
        status(browser)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


def form(browser: Browser, name: str, width: int, height: int) -> None:
    """The form with the answer to a flight that the model knows."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(f"{get_settings().web_url}/flights/delays/predict_kafka")
    page.click("#known-example")
    page.click("button[type=submit]")
    page.wait_for_selector("#prediction:not([hidden])", timeout=20_000)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / name, full_page=True)


def airflow(browser: Browser) -> None:
    """The list of the DAGs, the predictor's last good run, and the page Predictor."""
    settings = get_settings()
    page: Page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.add_init_script("""localStorage.setItem("default_dag_view", '"graph"')""")
    base = f"http://{LOOPBACK}:{settings.port_airflow}"
    page.goto(base)
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", load_secrets(settings).airflow_password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/auth/" not in url)  # else the next page comes before the login's cookie
    page.goto(f"{base}/dags")
    page.wait_for_selector(f"text={DagId.HEALTH}", timeout=30_000)
    page.wait_for_timeout(2500)
    page.screenshot(path=IMAGES / "airflow.png")
    api = AirflowApi(settings, load_secrets(settings))
    last = next(run for run in api.runs(DagId.PREDICTOR, 20) if run["state"] == "success")
    page.goto(f"{base}/dags/{DagId.PREDICTOR}/runs/{quote(last['dag_run_id'])}")
    page.wait_for_timeout(4000)
    page.screenshot(path=IMAGES / "airflow-predictor.png")
    page.goto(f"{base}/plugin/predictor")
    page.wait_for_timeout(5000)
    page.screenshot(path=IMAGES / "airflow-predictor-page.png")


def status(browser: Browser) -> None:
    """The web app's page of the predictor's status, on a phone."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{get_settings().web_url}/status")
    page.screenshot(path=IMAGES / "status-phone.png")


if __name__ == "__main__":
    main()
