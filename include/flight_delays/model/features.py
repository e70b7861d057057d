"""The features of a flight: one definition for training, streaming, batch and web."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from flight_delays.contract import GAINS, SPLITS, WEATHER

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NAMED: Final = ("Carrier", "Origin", "Dest", "Route")
"""What an answer names of a flight; `CarrierRoute` is made for the model alone."""
CATEGORICAL: Final = (*NAMED, "CarrierRoute")
TIMES: Final = ("CRSDepMinutes", "CRSArrMinutes", "ScheduledMinutes")
"""Scheduled departure and arrival as minutes of the local day, and from the one to the other, time zones included."""
WEATHER_FEATURES: Final = tuple(f"{name}Filled" for name in WEATHER)
GAIN_FEATURES: Final = (*(f"{name}Filled" for name in GAINS), *(f"{name}Expected" for name in GAINS))
"""The gains, and the arrival delay that follows if this flight does the same: a tree needs many splits for a sum."""
REQUIRED: Final = ("DepDelay", "Distance", "DayOfWeek")
NUMERIC: Final = (*REQUIRED, "Winter", *TIMES, *WEATHER_FEATURES, *GAIN_FEATURES)
"""`Winter` is 1 on the first of January and -1 half a year later. The day of the month and of the year are left out: of
one year's flights a forest learns those days by heart, and knows nothing of November who has seen October."""
UNKNOWN: Final = -10_000.0
"""An absent value in the features: below every real one, so that one split tells it apart."""
LABEL: Final = "ArrDelayBucket"


def with_features(flights: DataFrame) -> DataFrame:
    """Adds (or corrects) what is computed from a flight's own columns: the date parts, `Route` and `NUMERIC`.

    `flights` needs `FlightDate` (date), `Origin`, `Dest`, `Carrier` and `DepDelay`. `CRSDepTime`, `CRSArrTime` (HHMM),
    `WEATHER` and `GAINS` are optional, as columns and as values; what is absent becomes `UNKNOWN` in the features, and
    the columns themselves pass through like all others.
    """
    from pyspark.sql import functions as F

    there = set(flights.columns)

    def optional(name: str, kind: str) -> Column:
        return (F.col(name) if name in there else F.lit(None)).cast(kind)

    def minutes(name: str) -> Column:
        time = optional(name, "string")
        of_day = F.substring(time, 1, 2).try_cast("int") * 60 + F.substring(time, 3, 2).try_cast("int")
        return F.pmod(of_day, F.lit(1440)).cast("double")  # the records write midnight as 0000 or 2400

    def filled(value: Column) -> Column:
        return F.coalesce(value, F.lit(UNKNOWN))

    departure, arrival = minutes("CRSDepTime"), minutes("CRSArrTime")
    return flights.withColumns(
        {
            "DayOfYear": F.dayofyear("FlightDate"),
            "DayOfMonth": F.dayofmonth("FlightDate"),
            "DayOfWeek": F.weekday("FlightDate") + F.lit(1),  # weekday() counts from 0 = Monday
            "Winter": F.cos((F.dayofyear("FlightDate") - 1) * (2 * math.pi / 365.25)),
            "Route": F.concat_ws("-", "Origin", "Dest"),
            "CarrierRoute": F.concat_ws("-", "Carrier", "Origin", "Dest"),
            "CRSDepMinutes": filled(departure),
            "CRSArrMinutes": filled(arrival),
            "ScheduledMinutes": filled(F.pmod(arrival - departure, F.lit(1440.0))),
            **{f"{name}Filled": filled(optional(name, "double")) for name in (*WEATHER, *GAINS)},
            **{f"{name}Expected": filled(F.col("DepDelay") + optional(name, "double")) for name in GAINS},
        }
    )


def with_recent_gains(flights: DataFrame) -> DataFrame:
    """Adds `GAINS`, computed from the flights themselves: from earlier days only, never from the same day or later.

    `flights` needs `FlightDate`, `Dest`, `DepDelay` and `ArrDelay`; null where no flight into `Dest` is known.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    gain = F.col("ArrDelay") - F.col("DepDelay")
    daily = flights.groupBy("Dest", "FlightDate").agg(F.sum(gain).alias("total"), F.count(gain).alias("count"))
    days = Window.partitionBy("Dest").orderBy(F.unix_date("FlightDate"))
    windows = zip(GAINS, (days.rangeBetween(-1, -1), days.rangeBetween(-7, -1)), strict=True)
    means = (F.try_divide(F.sum("total").over(w), F.sum("count").over(w)).alias(name) for name, w in windows)
    recent = daily.select("Dest", "FlightDate", *means)
    return flights.join(F.broadcast(recent), ["Dest", "FlightDate"], "left")


def with_weather(flights: DataFrame, weather: DataFrame) -> DataFrame:
    """Adds `WEATHER` of the scheduled hour of departure; `weather` has `Origin`, `Date`, `Hour` (0..23), `WEATHER`."""
    from pyspark.sql import functions as F

    hour = F.pmod(F.substring("CRSDepTime", 1, 2).try_cast("int"), F.lit(24))
    renamed = weather.select("Origin", F.col("Date").alias("FlightDate"), "Hour", *WEATHER)
    return (
        flights.withColumn("Hour", hour)
        .join(F.broadcast(renamed), ["Origin", "FlightDate", "Hour"], "left")
        .drop("Hour")
    )


def without_conditions(flights: DataFrame, when: Column | None = None, names: tuple[str, ...] = ()) -> DataFrame:
    """The features as if nothing were known of weather and gains (or of `names`), for the rows where `when` is true."""
    from pyspark.sql import functions as F

    unknown = F.lit(True) if when is None else when
    return flights.withColumns(
        {
            name: F.when(unknown, F.lit(UNKNOWN)).otherwise(F.col(name))
            for name in names or (*WEATHER_FEATURES, *GAIN_FEATURES)
        }
    )


def arrival_bucket(arrival_delay: Column) -> Column:
    """The bucket 0.0 .. 3.0 of an arrival delay in minutes; null for null."""
    from pyspark.sql import functions as F

    bucket = F.when(arrival_delay < SPLITS[1], 0.0).when(arrival_delay < SPLITS[2], 1.0)
    return bucket.when(arrival_delay < SPLITS[3], 2.0).when(arrival_delay.isNotNull(), 3.0)
