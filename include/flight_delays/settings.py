"""All settings, typed, read from the environment when first used.

A setting is a field of `Settings`; its variable is `FLIGHTS_` and the field's name in capitals (`FLIGHTS_HOME`,
`FLIGHTS_PORT_WEB`), but for `MONGO_URI` and `MLFLOW_TRACKING_URI`, which keep the names that other tools
use. `make schemas` writes docs/settings.md from the fields.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: dags/, spark_jobs/ and the rest lie beside include/."""

LOOPBACK = "127.0.0.1"

SECRETS_FOLDER = Path("/run/secrets")
"""Where containers find files with secrets; a file `mongo_uri` there is the setting MONGO_URI."""

PREFIX = "FLIGHTS_"
"""Of the variables; but `MONGO_URI` and `MLFLOW_TRACKING_URI`."""

BROWSERS_REFUSE = frozenset(
    (1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080)
)
"""Of the "bad ports" of the Fetch standard (fetch.spec.whatwg.org/#port-blocking) those from 1024 up."""

BTS_URL = (
    "https://transtats.bts.gov/PREZIP/On_Time_Reporting_Carrier_On_Time_Performance_1987_present_{year}_{month}.zip"
)
"""The Bureau of Transportation Statistics' monthly files; `month` is 1 .. 12."""


_HOST = r"([\w.-]+|\[[0-9A-Fa-f:.]+\])"
_ADDRESSES = {
    "web_bind": (r"[\w.-]+|(?=.*:.*:)[0-9A-Fa-f:.]+", "127.0.0.1, ::1 or :: (the port is FLIGHTS_PORT_WEB)"),
    "web_hosts": (r"\.?[\w-][\w.-]*(,\.?[\w-][\w.-]*)*", "flights.example,.cloudshell.dev"),
    "kafka_bootstrap": (rf"{_HOST}:\d+(, *{_HOST}:\d+)*", "host:9092, several with commas"),
    "spark_connect_url": (rf"sc://{_HOST}(:\d+)?(/;.+)?", "sc://host:15002 or sc://host:443/;use_ssl=true;token=…"),
    "spark_ui_url": (rf"https?://{_HOST}(:\d+)?(/.*)?", "http://host:8080"),
    "spark_master": (
        rf"local(\[.+\])?|spark://{_HOST}:\d+(,{_HOST}:\d+)*|yarn|k8s://.+",
        "spark://host:7077 or local[2]",
    ),
    "smtp_url": (rf"smtps?://(.+@)?{_HOST}(:\d+)?/?", "smtp://host:25 or smtps://LOGIN@host:465"),
}
"""The pattern of each setting that is an address, and an example."""


Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole: above 0, at most 1."""


class SettingsError(ValueError):
    """Settings that cannot be: each by its variable's name, with the values it accepts."""


class Settings(BaseSettings):
    """Everything that differs between two installations. Ports hold the final number, offset included."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        secrets_dir=SECRETS_FOLDER if SECRETS_FOLDER.is_dir() else None,
    )

    home: Path = Field(PROJECT / "var", description="Folder of all state")
    # Above, MongoDB's port would be among those from which Linux makes outgoing connections (32768 and up): while a
    # service restarts, a client that looks for it there would sooner or later take its port, and hold it.
    port_offset: int = Field(0, ge=0, le=5_700)
    """Number added to every port, so that two stacks can run side by side."""

    web_bind: str = LOOPBACK
    """Address on which the web app listens. One that is not loopback needs a proxy in front (`FLIGHTS_WEB_PROXIES`)."""
    web_proxies: NonNegativeInt = 0
    """Number of proxies in front of the web app. It reads the client's address, the host name, the scheme and the path
    prefix from the `X-Forwarded-*` headers that they set; 0: it ignores these headers."""
    web_hosts: str = ""
    """Host names, besides `localhost`, by which browsers reach the web app, e.g. a proxy's:
    `flights.example,.cloudshell.dev` (`.name`: the domain and all below it). The web app refuses other names.
    Addresses need no entry."""
    port_web: int = Field(5000, description="Web app")
    port_airflow: int = Field(9090, description="Airflow's UI and API")
    port_airflow_execution: int = Field(9091, description="Airflow's API for its tasks")
    port_spark_ui: int = Field(8080, description="Spark UI of the Spark Connect server")
    port_kafka: int = Field(9092, description="Kafka")
    port_kafka_controller: int = Field(9093, description="Kafka's KRaft controller")
    port_mongo: int = Field(27017, description="MongoDB")
    port_spark_connect: int = Field(15002, description="Spark Connect")
    port_supervisor: int = Field(9001, description="Process manager")

    kafka_bootstrap: str = ""
    """Kafka brokers, `host:port`, separated by commas; empty: the embedded broker."""
    mongo_uri: str = Field("", validation_alias=AliasChoices("MONGO_URI", "mongo_uri"))
    """URI of your MongoDB; empty: a `mongod` on the PATH, else the embedded server."""
    spark_connect_url: str = Field("", description="Spark Connect server, `sc://host:port`; empty: the embedded server")
    spark_ui_url: str = ""
    """Spark UI to which links lead, `http://host:port`; empty: the embedded server's."""
    spark_master: str = Field("local[2]", description="Spark master of the training job")
    spark_driver_memory: str = Field("2g", description="Heap of the training job's driver")

    max_calibration_error: Share = 0.03
    """Maximum calibration error on the holdout; a new model above it is not promoted."""
    require_approval: bool = False
    """Whether a person approves each new model in Airflow ("Required Actions")."""
    approval_hours: PositiveFloat = 72
    """Timeout for the approval in hours; a model without an answer is not promoted."""

    notify_email: str = ""
    """Address that gets a mail when a task has failed for good; empty: no mail."""
    notify_from: str = Field("airflow@localhost", description="Sender of that mail")
    smtp_url: str = "smtp://127.0.0.1:25"
    """Mail server: `smtp://host:port`, or with TLS `smtps://LOGIN@host:port`, where LOGIN is the user, a colon and
    the password."""

    mlflow_tracking_uri: str = Field("", validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "mlflow_tracking_uri"))
    """MLflow server that gets a copy of runs and verdicts; needs `.venv/bin/uv pip install --group mlflow -c
    requirements-dev.lock`; empty: no copy."""

    topic_partitions: int = Field(2, ge=1, le=64)
    """Number of partitions of each topic, used when the topic is created."""
    topic_retention_days: PositiveFloat = 7
    """Retention of messages on Kafka in days, used when the topic is created."""
    topic_replication: PositiveInt = Field(1, description="Replication factor of each topic")

    bts_url: str = BTS_URL
    """Monthly files of the source `bts`: URL or path with `{year}` and `{month}`."""
    max_month_shift: Share = 0.3
    """Maximum distance (0..1) of a month's distributions from the month before; a month above it is held back."""
    min_month_rows: float = Field(0.5, ge=0, le=1)
    """Minimum rows of a month, as a share of the month before; a month below it is held back."""

    trigger: Literal["realtime", "microbatch"] = "realtime"
    """Mode of the streaming query: `realtime`, or `microbatch`, Spark's classic mode."""
    realtime_batch_seconds: int = Field(300, ge=5)
    """Length of a real-time batch in seconds; at its end Spark writes its checkpoint, and requests wait half a
    second."""
    canary_timeout_seconds: PositiveFloat = Field(90, description="Timeout for a canary's answer in seconds")
    canary_retention_hours: PositiveFloat = Field(24, description="Retention of canaries in hours")

    web_workers: PositiveInt = Field(1, description="Number of processes of the web app")
    web_threads: int = Field(64, ge=4)
    """Number of threads of each process; long polls hold three quarters at most."""
    min_free_disk_mib: NonNegativeInt = 512
    """Minimum free space in MiB on the disks of the state, Kafka and MongoDB (on a disk below 10 GiB: 5 %); below
    it the web app answers 503 (`disk_full`); 0: no minimum."""
    web_rate_limit: str = ""
    """Maximum number of flights that one client may submit, e.g. `30/minute`; above it the web app answers 429;
    empty: no limit. A client is an address (`FLIGHTS_WEB_PROXIES`): behind NAT or Docker's port forwarding, all
    clients may share one. Each process counts alone: with two processes, up to twice as many flights pass."""

    sink_batch_size: PositiveInt = Field(500, description="Maximum number of messages in one write of the sink")
    sink_commit_delay_seconds: NonNegativeFloat = 3
    """Delay in seconds between the sink's write and its commit of the offsets; the store needs this time to write
    to disk."""
    ivy_settings: str = ""
    """Ivy settings file for a mirror of Maven Central, or for a proxy with a password."""

    answer_retention_days: PositiveFloat = Field(90, description="Retention of answers in days")
    drift_alarm: float = Field(0, ge=0, le=1)
    """Maximum distance (0..1) of requests from the training data; above it `flight_delay_drift` fails; 0: it never
    fails."""
    replay_retention_days: PositiveFloat = Field(30, description="Retention of replays and their scores in days")
    rejected_retention_days: PositiveFloat = Field(30, description="Retention of rejected messages in days")
    event_retention_days: PositiveFloat = Field(90, description="Retention of the predictor's events in days")
    models_kept: PositiveInt = 10
    """Number of newest model versions to keep, besides the versions in use."""
    checkpoint_retention_days: PositiveFloat = 7
    """Retention of a replaced deployment's checkpoint in days."""
    download_retention_days: PositiveFloat = 30
    """Retention of downloads in days after their last use."""
    log_retention_days: PositiveFloat = Field(14, description="Retention of Airflow's logs in days")
    airflow_retention_days: float = Field(90, ge=1, description="Retention of runs in Airflow's database in days")
    health_retention_days: float = Field(3, ge=1)
    """Retention of the health check's successful runs in Airflow's database, in days."""

    @field_validator("web_rate_limit")
    @classmethod
    def _rate(cls, value: str) -> str:
        from limits import parse_many

        try:
            if value and any(limit.amount < 1 for limit in parse_many(value)):
                raise ValueError(f"{value} would let nothing through")
        except ValueError as error:
            raise ValueError(f"must be like 30/minute or 5/second;100/hour: {error}") from None
        return value

    @field_validator(*_ADDRESSES)
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        pattern, example = _ADDRESSES[str(info.field_name)]
        if value and not re.fullmatch(pattern, value):
            raise ValueError(f"must be like {example}")
        return value

    @field_validator("mongo_uri")
    @classmethod
    def _mongo(cls, value: str) -> str:
        if value:
            from pymongo import MongoClient
            from pymongo.errors import PyMongoError

            try:
                MongoClient(value, connect=False).close()
            except (ValueError, PyMongoError) as error:
                raise ValueError(f"must be like mongodb://host:27017/: {error}") from None
        return value

    @model_validator(mode="after")
    def _derive(self) -> Self:
        set_field = object.__setattr__  # frozen for everyone else
        set_field(self, "home", self.home.expanduser().resolve())
        for name in type(self).model_fields:
            if name.startswith("port_") and name != "port_offset":
                set_field(self, name, getattr(self, name) + self.port_offset)
        for name in ("port_web", "port_airflow", "port_spark_ui"):
            if (port := getattr(self, name)) in BROWSERS_REFUSE:
                raise ValueError(f"{variable_of(name)}: browsers refuse port {port}; choose another, or another offset")
        if not self.web_proxies and not _is_loopback(self.web_bind):
            raise ValueError(
                f"FLIGHTS_WEB_BIND: the web app listens on {self.web_bind} only behind a proxy; set "
                "FLIGHTS_WEB_PROXIES to the number of proxies (docs/security.md), or listen on 127.0.0.1"
            )
        for name, address in self._embedded.items():
            set_field(self, name, getattr(self, name) or address)
        return self

    @property
    def _embedded(self) -> dict[str, str]:
        """The addresses of the embedded servers."""
        return {
            "kafka_bootstrap": f"{LOOPBACK}:{self.port_kafka}",
            "mongo_uri": f"mongodb://{LOOPBACK}:{self.port_mongo}/",
            "spark_ui_url": f"http://{LOOPBACK}:{self.port_spark_ui}",
            # By this name alone, the client sends a token without TLS.
            "spark_connect_url": f"sc://localhost:{self.port_spark_connect}",
        }

    @property
    def web_address(self) -> str:
        """Where the web app listens, host:port."""
        return f"{_in_url(self.web_bind)}:{self.port_web}"

    @property
    def web_url(self) -> str:
        """Where this machine finds the web app: on loopback, if it listens on all addresses."""
        host = self.web_bind
        with suppress(ValueError):  # a name
            if (address := ip_address(host)).is_unspecified:
                host = LOOPBACK if address.version == 4 else "::1"
        return f"http://{_in_url(host)}:{self.port_web}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process of its own finds this installation."""
        ports = [name for name in type(self).model_fields if name.startswith("port_") and name != "port_offset"]
        return {
            "FLIGHTS_HOME": str(self.home),
            "FLIGHTS_PORT_OFFSET": str(self.port_offset),
            **{variable_of(name): str(getattr(self, name) - self.port_offset) for name in ports},
        }

    @property
    def mongo_is_external(self) -> bool:
        """Whether the user named a MongoDB of their own (`MONGO_URI`): then none is started."""
        return self.mongo_uri != self._embedded["mongo_uri"]

    @property
    def kafka_is_external(self) -> bool:
        """Whether the user named brokers of their own (`FLIGHTS_KAFKA_BOOTSTRAP`): then none is started."""
        return self.kafka_bootstrap != self._embedded["kafka_bootstrap"]

    @property
    def spark_connect_is_external(self) -> bool:
        """Whether the user named a server of their own (`FLIGHTS_SPARK_CONNECT_URL`): then none is started."""
        return self.spark_connect_url != self._embedded["spark_connect_url"]

    @property
    def spark_connect_token(self) -> str | None:
        """What the embedded Spark Connect server asks for; None for another server, whose URL may name its own."""
        if self.spark_connect_is_external:
            return None
        try:
            found: str | None = json.loads((self.home / "secrets.json").read_text()).get("spark_connect_token")
        except FileNotFoundError:
            return None
        return found

    @property
    def models(self) -> Path:
        """Model versions and the pointer file."""
        return self.home / "models"

    @property
    def records(self) -> Path:
        """Validated flight records, Parquet by month, and their manifest."""
        return self.home / "data" / "flight_records"

    @property
    def weather(self) -> Path:
        """Hourly weather at airports, as Parquet."""
        return self.home / "data" / "weather"

    @property
    def downloads(self) -> Path:
        """Files as they were downloaded."""
        return self.home / "data" / "downloads"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the streaming query, one folder a deployment."""
        return self.home / "checkpoints"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@lru_cache
def get_settings() -> Settings:
    """The settings of this process. SettingsError where a variable is unknown, or its value refused."""
    if unknown := list(_unknown()):
        raise SettingsError("\n".join(unknown))
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_problems(error))) from None


def _unknown() -> Iterator[str]:
    # A typing error, which without a word would leave the default in force.
    known = {_words(name): variable_of(name) for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known.values():
            meant = difflib.get_close_matches(_words(variable[len(PREFIX) :]), known, n=1)
            hint = f"do you mean {known[meant[0]]}?" if meant else "docs/settings.md has the list"
            yield f"{variable}: no such setting; {hint}"


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    aliased = Settings.model_fields[name].validation_alias is not None
    return name.upper() if aliased else PREFIX + name.upper()


def _words(name: str) -> str:
    return " ".join(sorted(name.upper().split("_")))  # in whatever order: WEB_PORT is PORT_WEB


def _problems(error: ValidationError) -> Iterator[str]:
    # Without the values: an address may hold a password.
    for problem in error.errors(include_url=False, include_input=False):
        where = [name if name.isupper() else variable_of(name) for name in map(str, problem["loc"])]
        yield ": ".join([*where, problem["msg"].removeprefix("Value error, ")])
