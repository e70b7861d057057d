"""What a person may ask, checked: the contract's types, and carriers and airports that are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from flight_delays import contract
from flight_delays.contract import DELAY_MINUTES, FIRST_DATE, LAST_DATE, Reason
from webapp.errors import ApiError, InvalidError
from webapp.services import ReferenceData

ACCEPTED: Final = {
    "Carrier": "the code of a known carrier, e.g. AA",
    "FlightDate": f"a date as YYYY-MM-DD, from {FIRST_DATE} to {LAST_DATE}",
    "FlightNum": "a flight number of 1 to 5 digits, e.g. 1519, or nothing",
    "Origin": "the code of a known airport, e.g. ATL",
    "Dest": "the code of a known airport other than the origin, e.g. SFO",
    "DepDelay": f"minutes from {DELAY_MINUTES[0]:g} to {DELAY_MINUTES[1]:g}, negative for early",
    "CRSDepTime": "the scheduled local time of departure as HHMM or HH:MM, e.g. 0905",
}

_NUMBER: Final = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?")


def _time(value: Any) -> Any:
    """Browsers send a time as HH:MM."""
    return re.sub(r"^([0-9]{2}):([0-9]{2})$", r"\1\2", value) if isinstance(value, str) else value


def _minutes(value: Any) -> Any:
    """A form has only text: numbers are read from it here, and nothing else that `float` takes ("nan", "1_0")."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise PydanticCustomError("number_format", "is no number")
        return float(value)
    if type(value) is int and abs(value) > 10**9:
        raise PydanticCustomError("less_than_equal", "is out of range")  # it may be too large for a float
    if type(value) not in (int, float):
        raise PydanticCustomError("number_type", "is no number")
    return value


def _known_carrier(code: str, info: ValidationInfo) -> str:
    known = cast(ReferenceData, info.context)
    if code not in known.carriers:
        accepted = "one of " + ", ".join(sorted(known.carriers))
        raise PydanticCustomError("unknown_carrier", "{code}", {"code": code, "accepted": accepted})
    return code


def _known_airport(code: str, info: ValidationInfo) -> str:
    known = cast(ReferenceData, info.context)
    if code not in known.airports:
        accepted = f"the code of one of {len(known.airports)} known airports, e.g. ATL, JFK or SFO"
        raise PydanticCustomError("unknown_airport", "{code}", {"code": code, "accepted": accepted})
    if info.field_name == "Dest" and info.data.get("Origin") == code:
        raise PydanticCustomError("same_airport", "is the origin")
    return code


_Airport = Annotated[contract.AirportCode, AfterValidator(_known_airport)]


class FlightForm(BaseModel):
    """The fields of a request that a person sets; text and JSON types alike, unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    Carrier: Annotated[contract.CarrierCode, AfterValidator(_known_carrier)]
    FlightDate: contract.FlightDay
    FlightNum: contract.FlightNumber | None = None
    Origin: _Airport
    Dest: _Airport
    DepDelay: Annotated[contract.Minutes, BeforeValidator(_minutes)]
    CRSDepTime: Annotated[contract.HHMM, BeforeValidator(_time)] | None = None


RESERVED: Final = (
    frozenset({*contract.Request.model_fields, *contract.Response.model_fields})
    - {"DayOfYear", "DayOfMonth", "DayOfWeek"}  # clients of the original may send them; they are computed anyway
    - set(FlightForm.model_fields)
)
"""Fields that the pipeline sets: a person who set `Canary` or `Replay` would never find the answer."""


def read_flight(data: Mapping[str, Any], known: ReferenceData) -> FlightForm:
    """The flight in a form or a JSON object. Raises InvalidError, which lists every field that is wrong."""
    data = contract.cleaned(data)
    errors = [
        ApiError(400, "reserved_field", f"{name} is set by the system", name, "nothing: leave it out")
        for name in sorted(RESERVED.intersection(data))
    ]
    try:
        flight = FlightForm.model_validate(data, context=known)
    except ValidationError as error:
        raise InvalidError([*(_api_error(each) for each in error.errors(include_url=False)), *errors]) from None
    if errors:
        raise InvalidError(errors)
    return flight


_REASONS: Final = {
    "missing": (Reason.MISSING_FIELD, "is missing"),
    "string_pattern_mismatch": (Reason.INVALID_FORMAT, "has the wrong form"),
    "number_format": (Reason.INVALID_FORMAT, "is no number"),
    "value_error": (Reason.OUT_OF_RANGE, "is no day that is accepted"),  # the contract's dates
    "greater_than_equal": (Reason.OUT_OF_RANGE, "is out of range"),
    "less_than_equal": (Reason.OUT_OF_RANGE, "is out of range"),
    "finite_number": (Reason.OUT_OF_RANGE, "is out of range"),
    "same_airport": (Reason.SAME_AIRPORT, "is the same as the origin"),
}


def _api_error(error: ErrorDetails) -> ApiError:
    field = str(error["loc"][0])
    accepted = error.get("ctx", {}).get("accepted", ACCEPTED[field])
    if error["type"].startswith("unknown_"):
        return ApiError(400, error["type"], f"{error['msg']} is not known; expected {ACCEPTED[field]}", field, accepted)
    code, what = _REASONS.get(error["type"], (Reason.WRONG_TYPE, "has the wrong type"))
    return ApiError(400, code.value, f"{field} {what}; expected {accepted}", field, accepted)
