"""The request message, written in one way by everyone here who asks about a flight."""

from __future__ import annotations

import datetime as dt
from typing import Any

from flight_delays.contract import Request, date_parts, format_timestamp


def request_message(uuid: str, **fields: Any) -> str:
    """The request as JSON: `fields` of `contract.Request`, without the date parts, which follow from `FlightDate`.

    `Timestamp` is now. Raises pydantic's ValidationError where a field breaks the contract.
    """
    now = format_timestamp(dt.datetime.now(dt.UTC), timespec="milliseconds")
    parts = date_parts(dt.date.fromisoformat(fields["FlightDate"]))
    return Request(UUID=uuid, Timestamp=now, **fields, **parts._asdict()).model_dump_json(exclude_none=True)
