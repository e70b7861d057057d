"""The contract: every name, bucket and message that the parts of the pipeline share, defined once.

The names are those of Agile_Data_Code_2 and its successors, whose users rely on them. The pydantic models are the
one definition of a valid message: the web app validates with them, `predictor/query.py` builds its
column checks from their JSON Schemas, and the sink reads what they describe.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import string
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# --- Kafka -----------------------------------------------------------------------------------------------------

REQUEST_TOPIC: Final = "flight_delay_classification_request"
RESPONSE_TOPIC: Final = "flight_delay_classification_response"
DEAD_LETTER_TOPIC: Final = "flight_delay_classification_dead_letter"
TOPICS: Final = (REQUEST_TOPIC, RESPONSE_TOPIC, DEAD_LETTER_TOPIC)

CLIENT_ID: Final = "flight-delays"
"""Kafka's client id of our producers: the embedded broker limits how much any other one may send a second."""

ANSWER_PLACE: Final = ("RequestPartition", "RequestOffset")
DEAD_LETTER_PLACE: Final = ("partition", "offset")
"""Where an answer, and a dead letter, say which request they belong to."""

# --- Airflow -------------------------------------------------------------------------------------------------------


class DagId(StrEnum):
    """The DAGs; each lives in the file of `dags/` that bears its name."""

    RECORDS = "flight_records"
    NEWEST_MONTH = "flight_records_newest_month"
    DISTANCES = "origin_dest_distances"
    CONDITIONS = "departure_conditions"
    TRAINING = "agile_data_science_batch_prediction_model_training"
    ROLLBACK = "flight_delay_model_rollback"
    PREDICTOR = "flight_delay_predictor"
    HEALTH = "flight_delay_predictor_health"
    DEAD_LETTERS = "flight_delay_dead_letters"
    REPLAY = "flight_delay_replay"
    DRIFT = "flight_delay_drift"
    MAINTENANCE = "maintenance"


# --- Web -------------------------------------------------------------------------------------------------------

SUBMIT_PATH: Final = "/flights/delays/predict/classify_realtime"
"""POST takes a flight; its answer is at `/response/<uuid>` below."""

# --- MongoDB ---------------------------------------------------------------------------------------------------

DATABASE: Final = "agile_data_science"


class Collection(StrEnum):
    """The collections of `DATABASE`."""

    DISTANCES = "origin_dest_distances"
    CONDITIONS = "departure_conditions"
    RESPONSES = "flight_delay_classification_response"
    REJECTED = "flight_delay_classification_rejected"
    REPLAYS = "flight_delay_replays"
    SCOREBOARD = "flight_delay_scoreboard"
    CANARIES = "predictor_canaries"
    STATE = "predictor_state"
    EVENTS = "predictor_events"


# --- What is predicted -----------------------------------------------------------------------------------------


class Bucket(NamedTuple):
    """One class of arrival delay."""

    prediction: int
    label: str


BUCKETS: Final = (
    Bucket(0, "Early (15+ Minutes Early)"),
    Bucket(1, "Slightly Early (0-15 Minute Early)"),
    Bucket(2, "Slightly Late (0-30 Minute Delay)"),
    Bucket(3, "Very Late (30+ Minutes Late)"),
)
SPLITS: Final = (float("-inf"), -15.0, 0.0, 30.0, float("inf"))
"""The borders of the buckets in minutes; a delay on a border is in the bucket above it."""

# --- What is valid ---------------------------------------------------------------------------------------------

CARRIER_PATTERN: Final = "^[A-Z0-9]{2,3}$"
AIRPORT_PATTERN: Final = "^[A-Z0-9]{3}$"
FLIGHT_NUMBER_PATTERN: Final = "^[0-9]{1,5}[A-Z]?$"
HHMM_PATTERN: Final = "^([01][0-9]|2[0-3])[0-5][0-9]$"
REPLAY_PATTERN: Final = "^[A-Za-z0-9_.~:+-]{1,250}$"
"""Takes the ids that Airflow gives to runs."""
UUID_PATTERN: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
DATE_PATTERN: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
TIMESTAMP_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-](0[0-9]|1[0-7]):[0-5][0-9])?$"
)
"""With seconds, and within 18 hours of UTC: what Python and Spark both read."""

CODES: Final = ("Carrier", "FlightNum", "Origin", "Dest")
"""Fields whose lower-case ASCII letters are read as upper case."""
LEADING_ZEROS: Final = "^0+(?=[0-9])"
"""`FlightNum` is read without them."""
BLANKS: Final = "".join(filter(str.isspace, map(chr, range(0x3001))))
"""What `str.strip` removes around a text: all white space of Unicode."""

DELAY_MINUTES: Final = (-1440.0, 4320.0)
"""Accepted delays in minutes: a day early to three days late (the BTS records of 2013 hold -86 to 1,301)."""
DISTANCE_MILES: Final = (1.0, 12_500.0)
"""Accepted distances in statute miles: no two airports are further apart than half the Earth's circumference."""
GAIN_MINUTES: Final = (-1440.0, 1440.0)
"""Accepted means of (arrival delay - departure delay) in minutes: nobody gains or loses more than a day in the air."""
FIRST_DATE: Final = dt.date(1987, 1, 1)
"""The BTS on-time records begin in 1987."""
LAST_DATE: Final = dt.date(2099, 12, 31)


def _real_date(value: str) -> str:
    day = dt.date.fromisoformat(value)  # ValueError names what is wrong: "day is out of range for month"
    if not FIRST_DATE <= day <= LAST_DATE:
        raise ValueError(f"a date from {FIRST_DATE} to {LAST_DATE} is expected")
    return value


def _real_timestamp(value: str) -> str:
    moment = parse_timestamp(value)
    if not FIRST_DATE <= moment.date() <= LAST_DATE:
        raise ValueError(f"a time from {FIRST_DATE} to {LAST_DATE} is expected")
    return value


def parse_timestamp(value: str) -> dt.datetime:
    """An ISO 8601 time as an aware datetime in UTC; a time without an offset is UTC already.

    Digits beyond microseconds are cut. Raises ValueError where it is no such time.
    """
    moment = dt.datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError(f"{value} is out of range") from error


def format_timestamp(moment: dt.datetime, timespec: str = "auto") -> str:
    """The twin of `parse_timestamp`: a time in UTC as ISO 8601 with a Z."""
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


class DateParts(NamedTuple):
    """`DayOfYear` 1..366, `DayOfMonth` 1..31, `DayOfWeek` 1 = Monday .. 7 = Sunday (as in the BTS records)."""

    DayOfYear: int
    DayOfMonth: int
    DayOfWeek: int


def date_parts(day: dt.date) -> DateParts:
    """The date features of a local date of departure; `model.features.with_features` computes the same in Spark."""
    return DateParts(day.timetuple().tm_yday, day.day, day.isoweekday())


DATE_RANGE_SCHEMA: Final[dict[str, Any]] = {
    "format": "date",
    "formatMinimum": FIRST_DATE.isoformat(),
    "formatMaximum": LAST_DATE.isoformat(),
}
_TIME_RANGE_SCHEMA: Final[dict[str, Any]] = {**DATE_RANGE_SCHEMA, "format": "date-time"}


def _number(lowest: float, highest: float, description: str, **more: Any) -> Any:
    return Field(ge=lowest, le=highest, allow_inf_nan=False, description=description, **more)


CarrierCode = Annotated[str, Field(pattern=CARRIER_PATTERN, description="IATA code of the carrier, e.g. AA")]
AirportCode = Annotated[str, Field(pattern=AIRPORT_PATTERN, description="IATA code of the airport, e.g. ATL")]
FlightNumber = Annotated[str, Field(pattern=FLIGHT_NUMBER_PATTERN)]
HHMM = Annotated[str, Field(pattern=HHMM_PATTERN, description="Local wall-clock time, HHMM")]
FlightDay = Annotated[
    str,
    Field(pattern=DATE_PATTERN, description="Local date of departure, YYYY-MM-DD", json_schema_extra=DATE_RANGE_SCHEMA),
    AfterValidator(_real_date),
]
UtcTime = Annotated[
    str,
    Field(pattern=TIMESTAMP_PATTERN, description="Time in UTC, ISO 8601", json_schema_extra=_TIME_RANGE_SCHEMA),
    AfterValidator(_real_timestamp),
]
Minutes = Annotated[float, _number(*DELAY_MINUTES, "Delay in minutes; early is negative")]
Miles = Annotated[float, _number(*DISTANCE_MILES, "Distance in statute miles")]
RequestId = Annotated[
    str,
    Field(pattern=UUID_PATTERN, description="The request's UUID; lower case in every answer"),
    AfterValidator(str.lower),
]


class Message(BaseModel):
    """What all messages share: JSON types are strict (no text in a numeric field), unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Pair(Message):
    """Two airports, `Dest` not `Origin`, and the miles between: a document of the collection origin_dest_distances."""

    Origin: AirportCode
    Dest: AirportCode
    Distance: Miles

    @model_validator(mode="after")
    def _two_airports(self) -> Self:
        if self.Origin == self.Dest:
            raise ValueError("Dest must differ from Origin")
        return self


class DepartureConditions(Message):
    """What is known at departure beside the flight itself, where it is known: absent is unknown.

    The weather is that of the scheduled departure's local hour at the origin. A gain is the mean of arrival delay minus
    departure delay, over the flights into `Dest` on days before `FlightDate`. The limits are physical ones, somewhat
    beyond the records ever measured.
    """

    CRSDepTime: HHMM | None = Field(None, description="Scheduled departure, local wall-clock time, HHMM")
    CRSArrTime: HHMM | None = Field(None, description="Scheduled arrival, local wall-clock time, HHMM")
    OriginTemperature: float | None = _number(-100, 150, "At the origin, in degrees Fahrenheit", default=None)
    OriginHumidity: float | None = _number(0, 100, "At the origin, relative, in percent", default=None)
    OriginWindDirection: float | None = _number(0, 360, "At the origin, where it blows from, in degrees", default=None)
    OriginWindSpeed: float | None = _number(0, 250, "At the origin, in miles per hour", default=None)
    OriginWindGust: float | None = _number(0, 300, "At the origin, in miles per hour", default=None)
    OriginPrecipitation: float | None = _number(0, 20, "At the origin, in inches an hour", default=None)
    OriginPressure: float | None = _number(800, 1100, "At the origin, of the sea level, in millibars", default=None)
    OriginVisibility: float | None = _number(0, 200, "At the origin, in miles", default=None)
    DestGainYesterday: float | None = _number(*GAIN_MINUTES, "On the day before FlightDate, in minutes", default=None)
    DestGain7Days: float | None = _number(
        *GAIN_MINUTES, "On the seven days before FlightDate, in minutes", default=None
    )


WEATHER: Final = tuple(name for name in DepartureConditions.model_fields if name.startswith("Origin"))
GAINS: Final = ("DestGainYesterday", "DestGain7Days")
ENTERED: Final = ("Carrier", "FlightDate", "FlightNum", "Origin", "Dest", "DepDelay", "CRSDepTime")
"""Fields of a request that a person enters; the web app looks up or makes the others."""


class Flight(DepartureConditions, Pair):
    """What a request asks about, and its answer repeats.

    A new field changes these places; tests/unit/test_request_fields.py fails where one is forgotten:

    1. here, or in `DepartureConditions` where it is looked up; in `ENTERED` where a person enters it; `make schemas`
    2. entered: `webapp.forms` (`FlightForm`, `ACCEPTED`) and webapp/templates/predict_kafka.html
    3. looked up: `data.conditions`
    4. learned from: `model.features.with_features` and, but for weather and gains, the columns in `data.sources`

    The rest follows: the query's checks, the answers, replays, and the names that the web app reserves.
    """

    UUID: RequestId
    Timestamp: UtcTime
    Carrier: CarrierCode
    FlightDate: FlightDay
    FlightNum: FlightNumber | None = Field(None, description="Flight number, e.g. 1519")
    DepDelay: Minutes
    Canary: bool | None = Field(None, description="true: the system's own request, to prove that answers come")
    Replay: str | None = Field(
        None, pattern=REPLAY_PATTERN, description="The run that sends a past flight again; kept apart from people's"
    )


class Request(Flight):
    """A message on the topic flight_delay_classification_request; its key is the UUID, which it may then lack.

    `Dest` differs from `Origin`. A field that is null or blank text is absent. White space around a text, lower case in
    a code, an integer as `FlightNum` and its leading zeros are accepted, and read as this schema has them.
    `DayOfYear`, `DayOfMonth` and `DayOfWeek` are written for readers of the original system and never read: the
    predictor computes them from `FlightDate`.
    """

    DayOfYear: Any = Field(None, description="1..366; recomputed from FlightDate")
    DayOfMonth: Any = Field(None, description="1..31; recomputed from FlightDate")
    DayOfWeek: Any = Field(None, description="1 = Monday .. 7 = Sunday; recomputed from FlightDate")


class Response(Flight):
    """A message on the topic flight_delay_classification_response, and a document of the collection of that name.

    The document also has `_id`, the UUID, and `PredictedAt`, the message's Kafka timestamp.
    """

    DayOfYear: int = Field(description="1..366, of FlightDate")
    DayOfMonth: int = Field(description="1..31, of FlightDate")
    DayOfWeek: int = Field(description="1 = Monday .. 7 = Sunday, of FlightDate")
    Route: str = Field(description="Origin and Dest, e.g. ATL-SFO")
    Prediction: int = Field(ge=0, le=3, description="Bucket of arrival delay; splits at -15, 0 and 30 minutes")
    Probability: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=4, max_length=4, description="By bucket")
    ModelVersion: str = Field(description="The model that predicted")
    Deployment: int = Field(description="Number of the deployment that predicted")
    RequestPartition: int = Field(description="Where the request lies on its topic")
    RequestOffset: int = Field(description="Where the request lies on its topic")
    RequestedAt: UtcTime | None = Field(None, description="The request's Kafka timestamp; answers of 0.1.0 lack it")


class Reason(StrEnum):
    """Why a message was rejected: the code in a dead letter's `reason`."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_NESTED = "too_nested"
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_FORMAT = "invalid_format"
    OUT_OF_RANGE = "out_of_range"
    SAME_AIRPORT = "same_airport"
    NOT_STORABLE = "not_storable"


class DeadLetter(Message):
    """A message on the topic flight_delay_classification_dead_letter.

    In the collection flight_delay_classification_rejected it has `_id` `<topic>-<partition>-<offset>`.
    """

    reason: str = Field(description="A code: why the request was rejected")
    field: str | None = Field(None, description="The field that is to blame, where one is")
    payload: str | None = Field(None, description="The request's text, cut to 4 KiB; absent for a tombstone")
    payload_bytes: int = Field(description="Size of the whole request")
    payload_sha256: str | None = Field(None, description="Checksum of the whole request, hexadecimal")
    partition: int = Field(description="Where the request lies on its topic")
    offset: int = Field(description="Where the request lies on its topic")
    UUID: str | None = Field(None, description="The request's, where it is readable")
    Deployment: int | None = Field(None, description="Number of the deployment that rejected")
    RejectedAt: UtcTime | None = Field(None, description="Added by the sink: the dead letter's Kafka timestamp")
    ReplayedAt: UtcTime | None = Field(None, description="Added by flight_delay_dead_letters once Kafka has it again")


PAYLOAD_BYTES: Final = 4 * 1024
"""Maximum of the rejected message in a dead letter: ten times a real request. The whole message is on its topic, from
where a replay takes it. With 64 KiB, 4,000 messages of 100 KB became 520 MB of dead letters."""
MAX_MESSAGE_BYTES: Final = 256 * 1024
"""A request above this is rejected unread (a real one has some 400 bytes)."""
MAX_KEY_BYTES: Final = 1024
"""A longer key is not read: Kafka takes 1 MB in a key, and the dead letter would become too large to send."""
MAX_BRACKETS: Final = 100
"""Maximum number of `{` and `[` in a request (a real one has one): JSON readers differ in how deep they can go."""
MAX_NUMBER_DIGITS: Final = 1000
MAX_NAME_CHARACTERS: Final = 50_000
"""Beyond these, Spark's JSON reader (Jackson) takes no number and no field's name."""


def read_request(value: bytes | None, key: bytes | None = None) -> Request:
    """The request in a Kafka message, by the rules of the predictor: what this refuses is rejected there, no more.

    JSON is taken strictly: one object, no name twice, no NaN. The UUID is the payload's, else the key's. Raises
    ValueError, which says what is wrong.
    """
    if not value:
        raise ValueError("the message is empty")
    if len(value) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(value)} bytes, above the limit of {MAX_MESSAGE_BYTES}")
    text = value.decode()
    if text.count("{") + text.count("[") > MAX_BRACKETS:
        raise ValueError(f"more than {MAX_BRACKETS} objects and arrays")
    found = json.loads(
        text,
        object_pairs_hook=_names_once,
        parse_constant=_no_constant,
        parse_int=lambda number: int(_short(number)),
        parse_float=lambda number: float(_short(number)),
    )
    if not isinstance(found, dict):
        raise ValueError("a JSON object is expected")
    fields = cleaned(found)
    if "UUID" not in fields and key is not None and len(key) <= MAX_KEY_BYTES:
        fields["UUID"] = key.decode()
    return Request.model_validate_json(json.dumps(fields))


def cleaned(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as the web app, the predictor and `read_request` read them, before their types are checked.

    Without white space around texts, and without fields that are null or blank. `CODES` are in upper case; `FlightNum`
    may be an integer, and has no leading zeros. The twin of `predictor.query.validate`.
    """
    found = ((name, _cleaned(name, value)) for name, value in fields.items())
    return {name: value for name, value in found if value is not None and value != ""}


def _cleaned(name: str, value: Any) -> Any:
    if name == "FlightNum" and type(value) is int and abs(value) < 10**9:  # str() refuses 4,300 digits
        value = str(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    text = text.translate(_UPPER) if name in CODES else text
    return flight_number(text) if name == "FlightNum" else text


_UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


def flight_number(text: str) -> str:
    """The number without leading zeros: 01284 is 1284, 000 is 0."""
    return re.sub(LEADING_ZEROS, "", text)


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a field's name appears twice")
    if any(len(name) > MAX_NAME_CHARACTERS for name in found):
        raise ValueError(f"a field's name has more than {MAX_NAME_CHARACTERS} characters")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _short(number: str) -> str:
    digits = sum(map(str.isdigit, number)) - number.lstrip("-").startswith("0")  # as Jackson counts
    if digits > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number has more than {MAX_NUMBER_DIGITS} digits")
    return number


def read_fields(value: bytes | None) -> dict[str, Any]:
    """The JSON object in a message that anybody may have written, its types unchecked; empty where it holds none."""
    try:
        fields = json.loads(value or b"null")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in its usual form of 36 characters, in either case."""
    return re.fullmatch(UUID_PATTERN, text) is not None


def rejected_id(topic: str, partition: int, offset: int) -> str:
    """`_id` of the rejected document for the message at that place."""
    return f"{topic}-{partition}-{offset}"
