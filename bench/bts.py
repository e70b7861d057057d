"""Monthly files in the layout of the Bureau's On-Time files, made from flights at hand; for measurements and tests."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import csv

if TYPE_CHECKING:
    import pandas as pd

_DIVERSION = ("Airport", "AirportID", "AirportSeqID", "WheelsOn", "TotalGTime", "LongestGTime", "WheelsOff", "TailNum")
_NAMES = """
Year Quarter Month DayofMonth DayOfWeek FlightDate Reporting_Airline DOT_ID_Reporting_Airline
IATA_CODE_Reporting_Airline Tail_Number Flight_Number_Reporting_Airline OriginAirportID OriginAirportSeqID
OriginCityMarketID Origin OriginCityName OriginState OriginStateFips OriginStateName OriginWac DestAirportID
DestAirportSeqID DestCityMarketID Dest DestCityName DestState DestStateFips DestStateName DestWac CRSDepTime DepTime
DepDelay DepDelayMinutes DepDel15 DepartureDelayGroups DepTimeBlk TaxiOut WheelsOff WheelsOn TaxiIn CRSArrTime ArrTime
ArrDelay ArrDelayMinutes ArrDel15 ArrivalDelayGroups ArrTimeBlk Cancelled CancellationCode Diverted CRSElapsedTime
ActualElapsedTime AirTime Flights Distance DistanceGroup CarrierDelay WeatherDelay NASDelay SecurityDelay
LateAircraftDelay FirstDepTime TotalAddGTime LongestAddGTime DivAirportLandings DivReachedDest DivActualElapsedTime
DivArrDelay DivDistance
"""
COLUMNS = [
    *_NAMES.split(),
    *(f"Div{number}{name}" for number in range(1, 6) for name in _DIVERSION),
    "",  # every line ends with a comma
]
"""The columns of the files, in their order."""
_TEXTS = {"Carrier": "Reporting_Airline", "Origin": "Origin", "Dest": "Dest"}
_TIMES = {"CRSDepTime": "CRSDepTime", "CRSArrTime": "CRSArrTime"}
_NUMBERS = {"DepDelay": "DepDelay", "ArrDelay": "ArrDelay", "Distance": "Distance"}


def write_month(path: Path, flights: pd.DataFrame) -> None:
    """Writes `flights`, of one month, as the zip of one CSV.

    They have the contract's columns as a source's chunk has them, and `Cancelled` and `Diverted` (0 or 1). Columns
    that this project does not read are empty, but for the cities' names, which hold commas.
    """
    columns = {name: pa.nulls(len(flights), pa.string()) for name in COLUMNS}
    columns["FlightDate"] = pa.array(flights["FlightDate"].dt.strftime("%Y-%m-%d"))
    columns["Flight_Number_Reporting_Airline"] = pa.array(flights["FlightNum"].astype(str))
    columns |= {theirs: pa.array(flights[ours]) for ours, theirs in (_TEXTS | _TIMES).items()}
    columns |= {theirs: pa.array(flights[ours].astype(float)) for ours, theirs in _NUMBERS.items()}
    columns |= {name: pa.array(flights[name].astype(float)) for name in ("Cancelled", "Diverted")}
    columns |= {name: pa.array(["New York, NY"] * len(flights)) for name in ("OriginCityName", "DestCityName")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("readme.html", "<html></html>")
        with archive.open("On_Time_Performance_(1987_present).csv", "w", force_zip64=True) as file:
            csv.write_csv(pa.table(columns), file)
