"""Errors that several parts raise, and those of drivers as people read them: one sentence, no dump, no password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

LONGEST: Final = 800

_DUMP: Final = re.compile(r"\s*[(]configured timeouts: [^)]*[)]|, Timeout: .*|, full error: .*", re.DOTALL)
"""What pymongo adds to its sentence: its settings, a description of all servers, a whole document."""
LOGIN: Final = re.compile(r"(?<=://)[^\s/]*@")


class ExpectedError(Exception):
    """An error whose message says what is wrong and what to do: a task's log needs no traceback."""


class DataError(ExpectedError, ValueError):
    """The data, or a parameter that names them, are wrong: trying again does not help."""


class RegistryError(ExpectedError, RuntimeError):
    """The model registry's content is not what it should be; the message says what and what to do, in one sentence."""


class PredictorError(ExpectedError, RuntimeError):
    """The predictor is not as it should be; the message says in one sentence what is wrong and what to do."""


class OvertakenError(PredictorError):
    """Another run changed the state meanwhile: it decides, and this one ends without a trace."""


class CanaryError(ExpectedError, RuntimeError):
    """A canary did not come back in time; the message says which, how long was waited, and what to look at."""


class ServiceError(ExpectedError, RuntimeError):
    """Kafka or MongoDB refuses or does not answer; the message has its own words, in one sentence."""


class BrokerError(CanaryError):
    """Kafka does not answer or takes nothing: no canary says anything about the query then."""


def sentence(error: object) -> str:
    """The error's own words: its first line without a driver's dump and without logins; else the name of its type."""
    text: Any = error
    kafka: Any = error.args[0] if isinstance(error, BaseException) and error.args else error
    details = getattr(error, "details", None)
    if callable(getattr(kafka, "str", None)):  # confluent_kafka.KafkaException, KafkaError
        text = kafka.str()
    elif callable(details):  # grpc.RpcError
        text = details()
    elif isinstance(details, dict) and details.get("writeErrors"):  # pymongo.errors.BulkWriteError
        text = details["writeErrors"][0].get("errmsg")
    text = LOGIN.sub("", _DUMP.sub("", str(text))).strip()
    return text.splitlines()[0].strip()[:LONGEST] if text else type(error).__name__


def problems(error: ValidationError) -> str:
    """What pydantic found wrong, each with its field."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in found)
