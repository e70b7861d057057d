"""The trigger that watches the predictor from Airflow's triggerer, and raises the alarm when a part is unhealthy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

if TYPE_CHECKING:
    from flight_delays.settings import Settings


class PredictorWatch(BaseEventTrigger):
    """Probes every `interval` seconds, and when the Spark Connect server dies, without an end.

    The payload of an event is the unhealthy `part` and the `reason`; see predictor.probe.
    """

    def __init__(self, interval: float = 10) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which the triggerer makes the trigger."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"interval": self.interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields an event for each alarm."""
        from flight_delays.predictor import probe
        from flight_delays.settings import get_settings

        settings, backoff = get_settings(), probe.Backoff()
        while True:
            unhealthy = await asyncio.to_thread(probe.probe, settings)
            alarm = backoff.alarm(unhealthy)
            if unhealthy is not None:
                self.log.warning("%s%s: %s", "alarm: " if alarm else "", unhealthy.part.value, unhealthy.reason)
                if alarm:
                    event = {"part": unhealthy.part.value, "reason": unhealthy.reason}
                    yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            await self._rest(settings)

    async def _rest(self, settings: Settings) -> None:
        """Returns after `interval` seconds, or within one when the server is gone that was there before.

        Airflow takes some seconds to begin a repair, the server some to come back: so both do at the same time.
        """
        from flight_delays.predictor import engine

        end = time.monotonic() + self.interval
        was_there = False
        while time.monotonic() < end:
            is_there = await asyncio.to_thread(engine.listens, settings)
            if was_there and not is_there:
                return
            was_there = is_there
            await asyncio.sleep(1)
