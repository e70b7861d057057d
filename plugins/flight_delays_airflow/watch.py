"""The trigger that watches the predictor from Airflow's triggerer, and raises the alarm when something is ill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent


class PredictorWatch(BaseEventTrigger):
    """Looks every `interval` seconds, for ever; an event is an illness: `part` and `reason`, see predictor.watch."""

    def __init__(self, interval: float = 10) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which the triggerer makes the trigger."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"interval": self.interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields an event for each alarm."""
        from flight_delays.predictor import watch
        from flight_delays.settings import get_settings

        patience = watch.Patience()
        while True:
            illness = await asyncio.to_thread(watch.look, get_settings())
            alarm = patience.alarm(illness)
            if illness is not None:
                self.log.warning("%s%s: %s", "alarm: " if alarm else "", illness.part.value, illness.reason)
                if alarm:
                    event = {"part": illness.part.value, "reason": illness.reason}
                    yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.interval)
