"""Records the README's picture, docs/images/repair.gif: `.venv/bin/python docs/record_repair.py`.

Starts a stack of its own on free ports, replays flights, kills the Spark Connect server, and takes pictures of the
scoreboard and of the status page until Airflow has repaired the predictor. Needs the same as take_screenshots.py.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser
from take_screenshots import IMAGES, chromium

from bench.installation import Installation, installation, own_settings, until
from flight_delays.contract import Collection, DagId
from flight_delays.predictor.events import Kind, last_events
from stack.airflow_api import ACTIVE
from stack.up import up

MONTHS = "2013-10..2013-12"
REPLAY = {"rate": 20, "limit": 3000}
WIDTH, HEIGHT, SCALE = 560, 740, 0.8
PLAYING_SECONDS = 30
LAST_SECONDS = 4
LINE, MARGIN = 24, 8
BACK, NEW, OLD = "#16202e", "#ffd66b", "#a1adbf"
FONT = ImageFont.load_default(17)


def main() -> None:
    """Records and writes the picture."""
    os.umask(0o077)
    with (
        tempfile.TemporaryDirectory(prefix="flights-") as folder,
        installation(own_settings(Path(folder) / "var"), fresh_clone=False) as stack,
    ):
        up(stack.settings, MONTHS)
        with chromium() as browser:
            recording = Recording(stack, browser)
            record(stack, recording)
    recording.save(IMAGES / "repair.gif")


class Recording:
    """Pictures of the two pages side by side, below the captions so far."""

    def __init__(self, stack: Installation, browser: Browser) -> None:
        view = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, timezone_id="UTC"
        )
        self.pages = [view.new_page(), view.new_page()]
        for page, path in zip(self.pages, ("flights/delays/scoreboard", "status"), strict=True):
            page.goto(f"{stack.url}/{path}")
        self.captions: list[str] = []
        self.frames: list[tuple[dt.datetime, list[str], Image.Image]] = []

    def film(self, caption: str, done: Callable[[], bool], seconds: float = 0) -> None:
        """A picture a second until it is done and the seconds are over. Raises TimeoutError after four minutes."""
        begin = time.monotonic()
        self.captions.append(f"{now():%H:%M:%S}  {caption}")

        def over() -> bool:
            self._take()
            return done() and time.monotonic() > begin + seconds

        until(caption, 240, over, every=0.6)

    def _take(self) -> None:
        panes = [Image.open(io.BytesIO(page.screenshot())).convert("RGB") for page in self.pages]
        width, height = panes[0].size
        both = Image.new("RGB", (2 * width + MARGIN, height), BACK)
        for number, pane in enumerate(panes):
            both.paste(pane, (number * (width + MARGIN), 0))
        self.frames.append((now(), list(self.captions), both))

    def save(self, path: Path) -> None:
        """An animated GIF of `PLAYING_SECONDS`, of which it shows the last picture for `LAST_SECONDS`."""
        times = [taken for taken, _, _ in self.frames]
        speed = (times[-1] - times[0]) / (PLAYING_SECONDS - LAST_SECONDS)
        durations = [round(1000 * ((after - before) / speed)) for before, after in pairwise(times)]
        pictures = [self._captioned(*frame) for frame in self.frames]
        palette = pictures[len(pictures) // 2].quantize(128)  # one for all: what does not change takes no space
        first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
        durations.append(1000 * LAST_SECONDS)
        first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)

    def _captioned(self, taken: dt.datetime, captions: list[str], both: Image.Image) -> Image.Image:
        band = LINE * len(self.captions) + 2 * MARGIN
        picture = Image.new("RGB", (both.width, both.height + band), BACK)
        picture.paste(both, (0, band))
        draw = ImageDraw.Draw(picture)
        draw.text((picture.width - MARGIN, MARGIN), f"{taken:%H:%M:%S} UTC", fill=NEW, font=FONT, anchor="ra")
        for number, caption in enumerate(captions):
            fill = NEW if number == len(captions) - 1 else OLD
            draw.text((MARGIN, MARGIN + number * LINE), caption, fill=fill, font=FONT)
        return picture


def record(stack: Installation, recording: Recording) -> None:
    """A replay, in which the Spark Connect server is killed."""
    airflow = stack.airflow()
    airflow.trigger(DagId.REPLAY, REPLAY)
    until("the first answers", 120, lambda: answered(stack) > 400)
    recording.film("Flights of December 2013 are replayed, 20 per second", lambda: True, 5)
    killed, before = now(), answered(stack)
    stack.kill("spark-connect")

    def repairing() -> bool:
        return any(run["state"] in ACTIVE for run in airflow.runs(DagId.PREDICTOR))

    def repaired() -> bool:
        return any(event.Kind is Kind.REPAIRED and event.At > killed for event in last_events(stack.db, 5))

    recording.film("Spark Connect is killed (kill -9)", repairing)
    recording.film("Airflow repairs it", repaired)
    recording.film("The predictor is repaired, and the scoreboard goes on", lambda: answered(stack) > before + 200, 8)


def now() -> dt.datetime:
    """The time in UTC."""
    return dt.datetime.now(dt.UTC)


def answered(stack: Installation) -> int:
    """The number of the replay's flights that have an answer."""
    return sum(score["Answered"] for score in stack.db[Collection.SCOREBOARD].find({}, ["Answered"]))


if __name__ == "__main__":
    main()
