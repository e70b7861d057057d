"""The features of a flight: one definition for training, streaming, batch and web."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final, NamedTuple

from flight_delays.contract import SPLITS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CATEGORICAL: Final = ("Carrier", "Origin", "Dest", "Route")
NUMERIC: Final = ("DepDelay", "Distance", "DayOfMonth", "DayOfWeek", "DayOfYear")
LABEL: Final = "ArrDelayBucket"


class DateParts(NamedTuple):
    """`DayOfYear` 1..366, `DayOfMonth` 1..31, `DayOfWeek` 1 = Monday .. 7 = Sunday (as in the BTS records)."""

    DayOfYear: int
    DayOfMonth: int
    DayOfWeek: int


def date_parts(day: dt.date) -> DateParts:
    """The three date features of a local date of departure; the twin of `with_features`, in plain Python."""
    return DateParts(day.timetuple().tm_yday, day.day, day.isoweekday())


def route(origin: str, dest: str) -> str:
    """The route's name, such as "ATL-SFO"."""
    return f"{origin}-{dest}"


def with_features(flights: DataFrame) -> DataFrame:
    """Adds (or corrects) what is computed from a flight's own columns: the date parts and `Route`.

    `flights` needs `FlightDate` (date), `Origin` and `Dest`; all other columns pass through.
    """
    from pyspark.sql import functions as F

    return flights.withColumns(
        {
            "DayOfYear": F.dayofyear("FlightDate"),
            "DayOfMonth": F.dayofmonth("FlightDate"),
            "DayOfWeek": F.weekday("FlightDate") + F.lit(1),  # weekday() counts from 0 = Monday
            "Route": F.concat_ws("-", "Origin", "Dest"),
        }
    )


def arrival_bucket(arrival_delay: Column) -> Column:
    """The bucket 0.0 .. 3.0 of an arrival delay in minutes; null for null."""
    from pyspark.sql import functions as F

    bucket = F.when(arrival_delay < SPLITS[1], 0.0).when(arrival_delay < SPLITS[2], 1.0)
    return bucket.when(arrival_delay < SPLITS[3], 2.0).when(arrival_delay.isNotNull(), 3.0)
