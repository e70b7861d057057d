"""An open-loop load generator for the web app: flights leave on schedule, however slow the answers are.

    .venv/bin/python -m bench.traffic --rate 10 --seconds 60      # against the stack of this checkout

A generator that waits for one answer before it sends the next flight slows down together with the system and measures
too little (coordinated omission). Here each request has a scheduled time, and the wait is known from both: from the
moment it was accepted and from the moment it should have been sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import aiohttp

from flight_delays.contract import SUBMIT_PATH
from flight_delays.settings import get_settings

FIELDS: Final = ("Carrier", "FlightDate", "FlightNum", "Origin", "Dest", "DepDelay")
_POST_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LAST_PAUSE_SECONDS: Final = 5.0


@dataclass(slots=True)
class Exchange:
    """One flight and its answer. Times are seconds of `time.monotonic()`, None for what did not happen.

    `status` is the HTTP status of the POST (None: no response, see `error`); `answer` the last JSON of the GET.
    """

    flight: dict[str, Any]
    scheduled: float
    sent: float | None = None
    status: int | None = None
    uuid: str | None = None
    accepted: float | None = None
    answered: float | None = None
    answer: dict[str, Any] | None = None
    error: str | None = None

    @property
    def latency(self) -> float:
        """Seconds from accepted (202) to answered; infinite where either did not happen."""
        return math.inf if self.answered is None or self.accepted is None else self.answered - self.accepted

    @property
    def latency_from_schedule(self) -> float:
        """Seconds from the scheduled time to answered; infinite where it was not answered."""
        return math.inf if self.answered is None else self.answered - self.scheduled


def records_flights(records: Path, *, fields: Sequence[str] = FIELDS, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Random flights of the published records at `records`, without end; by default the form's fields, all as text.

    Raises FileNotFoundError where no records are published.
    """
    import pyarrow.parquet as pq

    from flight_delays.data.records import month_files

    files = month_files(records)
    if not files:
        raise FileNotFoundError(f"there are no flight records in {records}: run `make up` first")
    chance = random.Random(seed)  # noqa: S311 - the same flights in every run
    while True:
        table = pq.read_table(chance.choice(files), columns=list(fields))
        for row in table.take(chance.sample(range(table.num_rows), min(2000, table.num_rows))).to_pylist():
            if row["DepDelay"] is not None:  # null for a cancelled flight
                yield {name: str(value) for name, value in row.items()}


async def send(
    url: str,
    flights: Iterable[dict[str, Any]],
    rate: float,
    *,
    answer_seconds: float = 30.0,
    poll_seconds: float = 10.0,
    concurrency: int = 1000,
    done: Callable[[Exchange], None] | None = None,
) -> list[Exchange]:
    """Sends the flights to the web app at `url`, `rate` a second (`math.inf`: as fast as `concurrency` allows).

    Each accepted flight is asked for (`?wait=poll_seconds`, again and again, also through outages) until it is
    answered or `answer_seconds` have passed; 0 does not ask. `flights` is read as it goes and may end when it likes;
    then this returns once the last answer is there. `done` is told of each exchange at its end. A flight that is
    refused or finds nobody is recorded, never raised, never sent again. No more than `concurrency` are under way:
    beyond that the sending waits, which shows in `sent - scheduled`.
    """
    exchanges: list[Exchange] = []
    slots = asyncio.Semaphore(concurrency)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with (
        aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def exchange(one: Exchange) -> None:
            try:
                await _submit(session, one)
                if one.uuid is not None and answer_seconds > 0:
                    await _await_answer(session, one, answer_seconds, poll_seconds)
            finally:
                slots.release()
            if done is not None:
                done(one)

        begin = time.monotonic()
        for number, flight in enumerate(flights):
            scheduled = begin + number / rate
            if (ahead := scheduled - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            await slots.acquire()
            exchanges.append(Exchange(flight, scheduled))
            tasks.create_task(exchange(exchanges[-1]))
    return exchanges


async def _submit(session: aiohttp.ClientSession, one: Exchange) -> None:
    one.sent = time.monotonic()
    try:
        async with asyncio.timeout(_POST_SECONDS), session.post(SUBMIT_PATH, data=one.flight) as response:
            one.status, accepted = response.status, time.monotonic()
            if response.status == 202:
                one.uuid, one.accepted = (await response.json())["id"], accepted
            else:
                one.error = (await response.text())[:500]
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        one.error = f"{type(error).__name__}: {error}"


async def _await_answer(session: aiohttp.ClientSession, one: Exchange, seconds: float, poll_seconds: float) -> None:
    begin = time.monotonic()
    deadline = begin + seconds
    pause = _FIRST_PAUSE_SECONDS
    place = f"{SUBMIT_PATH}/response/{one.uuid}"
    while (left := deadline - time.monotonic()) > 0:
        asked = time.monotonic()
        wait = min(left, poll_seconds)
        ask = session.get(place, params={"wait": f"{wait:.2f}"})
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):  # an outage: asks again
            async with asyncio.timeout(wait + 5), ask as response:
                if response.status == 200:
                    one.answer = await response.json()
                    if one.answer["status"] != "WAIT":
                        one.answered = time.monotonic()
                        return
        if time.monotonic() - asked < wait:  # an error, or more wait than the web app can hold: not at once again
            await asyncio.sleep(pause)
            # As the page does: it asks less often the longer it waits.
            longest = min(max(1.0, (time.monotonic() - begin) / 10), _LAST_PAUSE_SECONDS)
            pause = min(pause * 2, longest)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` (0..1) of the values do not exceed: nearest rank, so always a measured one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(exchanges: list[Exchange]) -> str:
    """Counts and the waits' p50, p99 and longest, in one line."""
    accepted = [one for one in exchanges if one.accepted is not None]
    answered = [one.latency for one in accepted if one.answered is not None]
    text = f"{len(exchanges)} sent, {len(accepted)} accepted, {len(answered)} answered"
    if answered:
        p50, p99, longest = (1000 * percentile(answered, share) for share in (0.5, 0.99, 1))
        text += f"; from accepted to answered p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"
    return text


def main() -> None:
    """Sends flights to the stack of this checkout's settings and prints what came back."""
    settings = get_settings()
    parser = argparse.ArgumentParser(prog="python -m bench.traffic", description="Send real flights to the web app.")
    parser.add_argument("--url", default=settings.web_url)
    parser.add_argument("--rate", type=float, default=10, help="flights a second")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    flights = islice(records_flights(settings.records), round(options.rate * options.seconds))
    print(summary(asyncio.run(send(options.url, flights, options.rate))))


if __name__ == "__main__":
    main()
