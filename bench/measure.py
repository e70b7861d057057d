"""The measurements: each takes a running installation and adds its figures to the results."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Any, Final

from bench import life
from bench import original as original_way
from bench.installation import Installation, until
from bench.kafka import Kafka, Offsets, requests
from bench.results import BUSY, MICROBATCH, ORIGINAL, RATE, REALTIME, BatchDuration, Plan, Results
from bench.traffic import Exchange, percentile, records_flights, send
from flight_delays.contract import RESPONSE_TOPIC, Collection, DagId
from flight_delays.errors import PredictorError
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor.control import reconcile
from flight_delays.predictor.engine import ping
from flight_delays.settings import Settings

# --- from POST to answer ---------------------------------------------------------------------------------------------


def exchanges(inst: Installation, rate: float, seconds: float) -> list[Exchange]:
    """Sends real flights through the web app; raises RuntimeError where one was not accepted or not answered."""
    flights = islice(records_flights(inst.settings.records), round(rate * seconds))
    found = asyncio.run(send(inst.url, flights, rate))
    if bad := [one for one in found if one.answered is None]:
        raise RuntimeError(f"{len(bad)} of {len(found)} flights were not answered, the first: {bad[0]}")
    return found


def waits(results: Results, mode: str, found: list[Exchange], must: tuple[float, float, float] | None = None) -> None:
    """Adds p50, p99 and longest, in milliseconds, with their bounds."""
    results.waits[mode] = [one.latency for one in found]
    measured = percentiles(results.waits[mode])
    met = None if must is None else all(value <= bound for value, bound in zip(measured, must, strict=True))
    bound = "" if must is None else " / ".join(f"{value:,.0f}" for value in must if value < math.inf) + " ms"
    text = " / ".join(f"{value:,.0f}" for value in measured)
    late = percentile((one.latency_from_schedule - one.latency for one in found), 0.99) * 1000
    what = f"POST accepted → answer readable, {mode}: p50 / p99 / longest of {len(found):,}"
    results.add(what, f"{text} ms (until accepted, from schedule: p99 {late:,.0f})", bound, met)


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """p50, p99 and the longest, in milliseconds."""
    return percentile(seconds, 0.5) * 1000, percentile(seconds, 0.99) * 1000, max(seconds) * 1000


def latency(inst: Installation, plan: Plan, results: Results) -> None:
    """10/s on the whole stack as `make up` leaves it, Airflow's schedules included."""
    exchanges(inst, RATE, 5)  # the first second after a start takes five times as long
    waits(results, REALTIME, exchanges(inst, RATE, plan.latency_seconds), (20, 100, 1000))


def busy(inst: Installation, plan: Plan, results: Results) -> None:
    """200/s."""
    exchanges(inst, 200, 3)
    waits(results, BUSY, exchanges(inst, 200, plan.busy_seconds), (30, 300, math.inf))


def original(inst: Installation, plan: Plan, results: Results) -> None:
    """Micro-batches, first with the product's sink, then with MongoDB's connector and nothing else."""
    with inst.quiet():
        try:
            inst.redeploy(trigger="microbatch")
            exchanges(inst, RATE, 5)
            waits(results, MICROBATCH, exchanges(inst, RATE, plan.compared_seconds))
            inst.stop("spark-connect", "sink")
            with original_way.running(inst.settings):
                exchanges(inst, RATE, 5)
                waits(results, ORIGINAL, exchanges(inst, RATE, plan.compared_seconds))
        finally:
            inst.start("sink")
            inst.redeploy()
    if REALTIME in results.waits:
        ratio = percentile(results.waits[ORIGINAL], 0.5) / percentile(results.waits[REALTIME], 0.5)
        results.add("The original's way is slower than real-time mode, at p50, by a factor of", f"{ratio:.0f}")


# --- many at once ----------------------------------------------------------------------------------------------------


def burst(inst: Installation, plan: Plan, results: Results) -> None:
    """Requests at once onto the topic: how fast the query answers them, and how fast they are all in MongoDB."""
    answered, stored = [], []
    for _ in range(plan.runs):
        by_query, in_store = _burst(inst, plan.burst)
        answered.append(by_query)
        stored.append(in_store)
    for what, rates, must in (("answered by the query", answered, 10_000), ("stored in MongoDB", stored, 2_500)):
        rate = statistics.median(rates)
        title = f"{plan.burst:,} requests at once onto the topic: {what}"
        results.add(title, f"{rate:,.0f}/s ({_spread(rates)})", f">= {must:,}/s", rate >= must)


def _burst(inst: Installation, count: int) -> tuple[float, float]:
    kafka, responses = Kafka(inst.settings), inst.db[Collection.RESPONSES]
    messages = dict(islice(requests(inst.settings.records), count))
    before = kafka.ends(RESPONSE_TOPIC)
    begin = time.time()  # the clock with which Kafka's clients stamp their records
    kafka.put(messages.items())
    end = _await_answers(kafka, before, count)
    tail = {partition: max(before[partition], offset - 100) for partition, offset in end.items()}
    answers = [answer for answer in kafka.read(RESPONSE_TOPIC, tail, end) if answer.key().decode() in messages]
    last = list({answer.partition(): answer.key().decode() for answer in answers}.values())
    until("the last answers in MongoDB", 300, lambda: _stored(responses, last) == len(last), every=0.02)
    stored = time.time()
    if (found := _stored(responses, list(messages))) != count:
        raise RuntimeError(f"{found} of {count} answers are in MongoDB")
    kafka.close()
    return count / (max(answer.timestamp()[1] for answer in answers) / 1000 - begin), count / (stored - begin)


def _await_answers(kafka: Kafka, before: Offsets, count: int) -> Offsets:
    """Where the response topic ends, once it has grown by `count`."""

    def end() -> Offsets | None:
        ends = kafka.ends(RESPONSE_TOPIC)
        return ends if sum(ends.values()) - sum(before.values()) >= count else None

    found = until(f"{count} answers on the topic", 120, end, every=0.05)
    assert found is not None  # noqa: S101 - `until` returns what is true
    return found


def _stored(responses: Any, uuids: list[str]) -> int:
    chunks = (uuids[i : i + 1000] for i in range(0, len(uuids), 1000))
    return sum(len(list(responses.find({"_id": {"$in": chunk}}, {"_id": 1}))) for chunk in chunks)


def posts(inst: Installation, plan: Plan, results: Results) -> None:
    """POSTs as fast as the web app takes them from 32 connections."""
    rates = []
    for _ in range(plan.runs):
        flights = islice(records_flights(inst.settings.records), 4000)
        found = asyncio.run(send(inst.url, flights, math.inf, answer_seconds=0, concurrency=32))
        accepted = [one.accepted for one in found if one.accepted is not None]
        if len(accepted) < len(found):
            raise RuntimeError(f"{len(found) - len(accepted)} of {len(found)} flights were not accepted")
        rates.append(len(found) / (max(accepted) - found[0].scheduled))
    rate = statistics.median(rates)
    results.add(
        "POSTs at the web app, one process, while all are predicted",
        f"{rate:,.0f}/s ({_spread(rates)})",
        ">= 400/s",
        rate >= 400,
    )


# --- the duration of a real-time batch -------------------------------------------------------------------------------


def durations(inst: Installation, plan: Plan, results: Results) -> None:
    """For each duration the wait at 10/s with a roll-over or more, then kill -9 with a whole batch to be replayed."""
    with inst.quiet():
        for seconds in plan.durations:
            settings = inst.redeploy(realtime_batch_seconds=seconds)
            found = asyncio.run(_one_duration(inst, settings, plan.compared_seconds))
            results.durations.append(found)
            print(f"    · {found}", flush=True)
        inst.redeploy()


async def _one_duration(inst: Installation, settings: Settings, at_least: float) -> BatchDuration:
    seconds = settings.realtime_batch_seconds
    going = True

    def flights() -> Iterator[dict[str, Any]]:
        yield from takewhile(lambda _: going, records_flights(settings.records))

    load = asyncio.create_task(send(inst.url, flights(), RATE, answer_seconds=180))
    begin, batches = time.monotonic(), inst.batches
    # A roll-over is complete when its batch is committed.
    await asyncio.to_thread(until, "a roll-over", 2 * seconds + 60, lambda: inst.batches > batches, every=0.5)
    await asyncio.sleep(max(5.0, at_least - (time.monotonic() - begin)))
    measured_until = time.monotonic()
    killed, server, again = await asyncio.to_thread(_kill, inst, settings)
    await asyncio.sleep(2)
    going = False
    found = await load
    before = [one.latency for one in found if one.answered is not None and one.answered <= measured_until]
    first = min(one.answered for one in found if one.answered and one.accepted and one.accepted > killed)
    p50, p99, longest = percentiles(before)
    return BatchDuration(
        seconds=seconds,
        p50=p50,
        p99=p99,
        longest=longest,
        answered_again=again,
        lost=sum(one.accepted is not None and one.answered is None for one in found),
        server_seconds=server - killed,
        reconcile_seconds=first - server,
    )


def _kill(inst: Installation, settings: Settings) -> tuple[float, float, int]:
    """Fills the batch as `RATE` would, kills the server, repairs: when killed, when back, and how many came again."""
    kafka = Kafka(settings)
    rolled = inst.batches
    if settings.realtime_batch_seconds <= 30:  # short ones are filled right after a roll-over
        until("a roll-over", 60, lambda: inst.batches > rolled, every=0.05)
    before = kafka.ends(RESPONSE_TOPIC)
    count = round(RATE * settings.realtime_batch_seconds)
    kafka.put(islice(requests(settings.records), count))
    _await_answers(kafka, before, count)
    killed = time.monotonic()
    inst.kill("spark-connect")
    until("the Spark Connect server", 120, lambda: _pings(settings))
    server = time.monotonic()
    with mongo.database(settings) as db:
        reconcile(settings, db)
    seen = Counter(answer.key() for answer in kafka.read(RESPONSE_TOPIC, before, kafka.ends(RESPONSE_TOPIC)))
    kafka.close()
    return killed, server, sum(times - 1 for times in seen.values())


def _pings(settings: Settings) -> bool:
    try:
        ping(settings)
    except PredictorError:
        return False
    return True


# --- start, memory, training -----------------------------------------------------------------------------------------


def startup(inst: Installation, plan: Plan, results: Results) -> None:
    """`make up` from a fresh clone, after `make down`, and on the running stack."""
    first = inst.up()
    results.add(
        "First `make up`: fresh clone, fresh .venv, download caches as they are",
        f"{first:.0f} s",
        "<= 10 min",
        first <= 600,
    )
    running = [inst.up() for _ in range(plan.runs)]
    warm = []
    for _ in range(plan.runs):
        inst.down()
        warm.append(inst.up())
    for what, seconds, must in (("after `make down`", warm, 90), ("on a running stack", running, 15)):
        median = statistics.median(seconds)
        results.add(f"`make up` {what}", f"{median:.0f} s ({_spread(seconds)})", f"<= {must} s", median <= must)


def training(inst: Installation, plan: Plan, results: Results) -> None:  # noqa: ARG001 - as the others
    """Memory while nothing is asked, then while Airflow trains beside the serving query; the training's time."""
    idle = [inst.memory_bytes() for _ in _ticks(20, 5)]
    before = registry.read_pointer(inst.settings.models).champion
    api = inst.airflow()
    run = api.trigger(DagId.TRAINING, {"force": True})
    peak, task = 0, None
    deadline = time.monotonic() + 900
    while task is None or task["state"] not in ("success", "failed"):
        if time.monotonic() > deadline:
            raise TimeoutError("the training did not end within 900 s")
        peak = max(peak, inst.memory_bytes())
        task = next((task for task in api.tasks(DagId.TRAINING, run) if task["task_id"] == "train"), None)
        time.sleep(0.5)
    if task["state"] != "success":
        raise RuntimeError(f"the training ended as {task['state']}")
    gib = 1024**3
    median = statistics.median(idle) / gib
    results.add("Memory (PSS) of the whole stack, idle", f"{median:.2f} GiB", "<= 3.25 GiB", median <= 3.25)
    results.add(
        "Memory (PSS) of the whole stack, highest while training", f"{peak / gib:.2f} GiB", "<= 7 GiB", peak / gib <= 7
    )
    until("the new champion", 120, lambda: registry.read_pointer(inst.settings.models).champion != before)
    inst.await_serving_champion(300)
    made = _params(inst.settings)
    results.add(f"Training of {made.trees} trees of depth {made.depth}, and judging", f"{task['duration']:.0f} s")


def _params(settings: Settings) -> registry.Params:
    """How the champion was trained."""
    return registry.load_metadata(settings.models, str(registry.read_pointer(settings.models).champion)).params


def _ticks(seconds: float, count: int) -> Iterator[int]:
    for number in range(count):
        time.sleep(seconds / count)
        yield number


def _spread(values: list[float]) -> str:
    return "one run" if len(values) == 1 else f"median of {len(values)}: {min(values):,.0f} to {max(values):,.0f}"


# --- lower bounds ----------------------------------------------------------------------------------------------------


def bounds(inst: Installation, plan: Plan, results: Results) -> None:  # noqa: ARG001 - as the others
    """What no system of these parts can undercut: the model alone, in process, and Kafka alone."""
    results.add(
        "Lower bound: scikit-learn's forest of the same size, one row in process",
        _milliseconds(_scikit_learn(inst.settings, 500)),
    )
    kafka = Kafka(inst.settings)
    results.add(
        "Lower bound: Kafka alone, produced → consumed, the web app's client settings",
        _milliseconds(kafka.round_trips(500)),
    )
    kafka.close()


def _milliseconds(seconds: list[float]) -> str:
    p50, p99, _ = percentiles(seconds)
    return f"{p50:.1f} / {p99:.1f} ms (p50 / p99 of {len(seconds)})"


def _scikit_learn(settings: Settings, count: int) -> list[float]:
    """Seconds that each of `count` predictions of one row took."""
    from sklearn.ensemble import RandomForestClassifier

    fields = ("DepDelay", "Distance", "ArrDelay")
    flights = islice(records_flights(settings.records, fields=fields), 20_000)
    rows = [[float(row[name]) for name in fields] for row in flights if row["ArrDelay"] != "None"]
    known, late = [row[:2] for row in rows], [int(row[2] > 0) + int(row[2] > 30) + int(row[2] > -15) for row in rows]
    made = _params(settings)
    forest = RandomForestClassifier(n_estimators=made.trees, max_depth=made.depth, random_state=1).fit(known, late)
    found = []
    for row in known[:count]:
        begin = time.perf_counter()
        forest.predict_proba([row])
        found.append(time.perf_counter() - begin)
    return found


SECTIONS: Final[dict[str, Callable[[Installation, Plan, Results], None]]] = {
    "startup": startup,
    "training": training,
    "latency": latency,
    "busy": busy,
    "posts": posts,
    "burst": burst,
    "bounds": bounds,
    "swap": life.swap,
    "repair": life.repair,
    "original": original,
    "durations": durations,
}
"""In the order in which they run: what stops the query on purpose comes last."""
