"""The load generator against a web server of the test's own, and the report."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from bench import report, traffic
from bench.kafka import requests
from bench.results import BatchDuration, Results
from flight_delays import contract

FLIGHT = {
    "Carrier": "UA",
    "FlightDate": "2013-12-20",
    "FlightNum": "1",
    "Origin": "EWR",
    "Dest": "SFO",
    "DepDelay": "5",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def served(post: Handler, get: Handler, use: Callable[[str], Awaitable[Any]]) -> Any:
    """What `use` returns, given the address of a server with these two endpoints."""

    async def run() -> Any:
        app = web.Application()
        app.router.add_post(contract.SUBMIT_PATH, post)
        app.router.add_get(contract.SUBMIT_PATH + "/response/{uuid}", get)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await use("http://{}:{}".format(*runner.addresses[0]))
        finally:
            await runner.cleanup()

    return asyncio.run(run())


async def accept(request: web.Request) -> web.Response:
    data = await request.post()
    return web.json_response({"status": "OK", "id": str(data["FlightNum"])}, status=202)


async def answer(request: web.Request) -> web.Response:
    return web.json_response({"status": "OK", "id": request.match_info["uuid"]})


def flights(count: int) -> list[dict[str, Any]]:
    return [FLIGHT | {"FlightNum": str(number)} for number in range(count)]


def test_no_flight_waits_for_the_answer_to_another() -> None:
    posted: list[str] = []
    all_posted = asyncio.Event()

    async def post(request: web.Request) -> web.Response:
        posted.append("")
        if len(posted) == 20:
            all_posted.set()
        return await accept(request)

    async def get(request: web.Request) -> web.Response:
        await all_posted.wait()
        return await answer(request)

    found = served(post, get, lambda url: traffic.send(url, flights(20), 200))
    assert [one.answer["id"] for one in found] == [str(number) for number in range(20)]
    assert all(one.scheduled <= one.sent <= one.accepted <= one.answered for one in found)
    steps = [after.scheduled - before.scheduled for before, after in pairwise(found)]
    assert steps == pytest.approx([1 / 200] * 19)
    assert all(one.latency_from_schedule >= one.latency for one in found)


def test_no_more_are_under_way_than_allowed() -> None:
    under_way, most = 0, 0

    async def get(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await answer(request)

    found = served(accept, get, lambda url: traffic.send(url, flights(50), math.inf, concurrency=3))
    assert all(one.answered for one in found)
    assert 1 <= most <= 3


def test_what_is_refused_is_recorded_and_what_fails_on_the_way_is_asked_for_again() -> None:
    asked: dict[str, int] = {}

    async def post(request: web.Request) -> web.Response:
        data = await request.post()
        return await accept(request) if data["FlightNum"] != "1" else web.Response(status=503, text="no Kafka")

    async def get(request: web.Request) -> web.StreamResponse:
        uuid = request.match_info["uuid"]
        asked[uuid] = asked.get(uuid, 0) + 1
        if asked[uuid] == 1:
            return web.Response(status=503)
        if asked[uuid] == 2:
            return web.json_response({"status": "WAIT", "id": uuid})
        return await answer(request)

    ended: list[traffic.Exchange] = []
    found = served(post, get, lambda url: traffic.send(url, flights(3), math.inf, done=ended.append))
    assert [(one.status, one.uuid, one.error) for one in found] == [
        (202, "0", None),
        (503, None, "no Kafka"),
        (202, "2", None),
    ]
    assert asked == {"0": 3, "2": 3}
    assert found[1].latency == math.inf
    assert sorted(ended, key=lambda one: str(one.flight["FlightNum"])) == found


def test_nobody_there_is_recorded() -> None:
    [one] = asyncio.run(traffic.send("http://127.0.0.1:1", flights(1), 10))
    assert one.status is None
    assert "ClientConnectorError" in str(one.error)


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [traffic.percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert traffic.percentile([7.0], 0.5) == 7


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{**FLIGHT, "DepDelay": delay, "Distance": 2565.0} for delay in (5.0, None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "month.parquet")
    monkeypatch.setattr("flight_delays.data.records.month_files", lambda folder: sorted(folder.glob("*.parquet")))
    return tmp_path


def test_flights_are_the_form_fields_of_flown_records(records: Path) -> None:
    assert list(islice(traffic.records_flights(records), 3)) == [FLIGHT | {"DepDelay": "5.0"}] * 3


def test_messages_are_valid_requests(records: Path) -> None:
    for uuid, message in islice(requests(records), 3):
        assert uuid == contract.Request.model_validate_json(message).UUID


def test_the_report_holds_every_figure(tmp_path: Path) -> None:
    results = Results(waits={"one mode": [0.01, 0.02]}, machine="A machine.")
    results.add("speed", "400/s", ">= 400/s", True)
    results.add("size", "8 GiB", "<= 7 GiB", False)
    for seconds in (60, 300):
        results.durations.append(BatchDuration(seconds, 8, 20, 650, 10 * seconds, 0, 8, 15))
    report.write(results, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| speed | 400/s | >= 400/s | reached |" in text
    assert "| size | 8 GiB | <= 7 GiB | **missed** |" in text
    assert "| 5 min | 8 / 20 / 650 ms | 3,000 | 0 | 8.0 s | 15.0 s |" in text
    for image in ("bench-latency.png", "bench-batch-duration.png"):
        assert f"images/{image}" in text
        assert (tmp_path / "images" / image).read_bytes().startswith(b"\x89PNG")
