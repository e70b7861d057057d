"""How often an illness is worth an alarm."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time

from flight_delays.predictor.probe import Backoff, Part, Unhealthy
from flight_delays.predictor.timeouts import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from flight_delays.settings import LOOPBACK, Settings
from flight_delays_airflow.watch import PredictorWatch


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def alarms(backoff: Backoff, clock: Clock, illness: Unhealthy | None, seconds: int) -> list[float]:
    """When alarms were raised, in seconds from now, looking every 10 s."""
    begin, found = clock.now, []
    for _ in range(0, seconds, 10):
        if backoff.alarm(illness):
            found.append(clock.now - begin)
        clock.now += 10
    return found


def test_alarms_come_at_once_and_then_less_and_less_often() -> None:
    clock = Clock()
    found = alarms(Backoff(clock), clock, Unhealthy(Part.QUERY, "gone"), 4000)
    assert found[:5] == [0, 20, 60, 140, 300]
    pauses = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert pauses[0] == FIRST_PAUSE_SECONDS
    assert pauses[-1] == LONGEST_PAUSE_SECONDS == max(pauses)


def test_what_was_well_in_between_is_worth_an_alarm_at_once() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    alarms(backoff, clock, Unhealthy(Part.QUERY, "gone"), 300)
    assert not backoff.alarm(None)
    assert backoff.alarm(Unhealthy(Part.QUERY, "gone again"))


def test_each_part_has_its_own_patience() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    alarms(backoff, clock, Unhealthy(Part.QUERY, "gone"), 200)
    assert backoff.alarm(Unhealthy(Part.STORE, "MongoDB is away")), "another illness"
    assert not backoff.alarm(Unhealthy(Part.QUERY, "gone")), "nothing was seen of the query meanwhile"
    assert backoff.alarm(Unhealthy(Part.ANSWERS, "silent"))
    clock.now += 10
    assert backoff.alarm(Unhealthy(Part.QUERY, "gone")), "it was well when the answers were asked for"


def seconds_of_rest(port: int, interval: float) -> float:
    """How long the trigger rests while a Spark Connect server is, or is not, at the port."""
    settings = Settings(spark_connect_url=f"sc://{LOOPBACK}:{port}")
    begin = time.monotonic()
    asyncio.run(PredictorWatch(interval)._rest(settings))
    return time.monotonic() - begin


def test_a_server_that_dies_ends_the_rest() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        assert seconds_of_rest(port, 1.5) >= 1.5, "it was there all the time"
        death = threading.Timer(1.5, server.close)
        death.start()
        assert 1 < seconds_of_rest(port, 60) < 30
        death.join()
    assert seconds_of_rest(port, 2.5) >= 2.5, "what was away before is nothing new"
