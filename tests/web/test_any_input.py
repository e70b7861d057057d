"""Whatever a client sends, at any address: accepted, or explained in JSON; nothing is an internal error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flight_delays.contract import REQUEST_TOPIC, Request, is_uuid
from tests.web.form import FLIGHT, FORM, RESPONSE, SUBMIT
from webapp.forms import FlightForm

pytestmark = pytest.mark.integration

_PROPERTY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
_LATIN1 = st.text(st.characters(max_codepoint=255), max_size=20)  # as WSGI carries bytes
_TEXT = st.text(max_size=12) | st.sampled_from(
    [
        *("1e3", "-0", "inf", "nan", "\u0661", "2016-2-3", "\x00", "'", "$ne", "<b>", "EWR", "B6", "-15"),
        *("2013-02-29", "1e400", " ", "0000", "\uff21", "\ud800"),
    ]
)
_NAME = st.sampled_from([*FlightForm.model_fields, *Request.model_fields, "Origin[$gt]", "Replay", ""]) | _TEXT
_FIELDS = st.lists(st.tuples(_NAME, _TEXT), max_size=6).map(lambda fields: [*FLIGHT.items(), *fields])
_LOOSE = st.lists(st.tuples(_NAME, _TEXT), max_size=6)
_CHANGED = st.dictionaries(st.sampled_from([*FLIGHT, "CRSDepTime"]), _TEXT, min_size=1, max_size=3).map(
    lambda fields: [*{**FLIGHT, **fields}.items()]
)
_ANY_FIELDS = _FIELDS | _LOOSE | _CHANGED
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAME, inner, max_size=3),
    max_leaves=6,
)
_FORM = "application/x-www-form-urlencoded"
_TYPES = st.sampled_from(
    [
        *("application/json", "application/json; charset=utf-16", "APPLICATION/JSON;", "application/problem+json"),
        *(_FORM, f"{_FORM}; charset=utf-16", f"{_FORM}; charset=nothing", f'{_FORM};;="'),
        *("multipart/form-data", "multipart/form-data; boundary=x", 'multipart/form-data; boundary="\xff"'),
        *("multipart/mixed; boundary=x", "text/plain", "", "/", ";", "a/b; c*=utf-8''%ff"),
    ]
)
_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Accept", "Content-Encoding", "Cookie", "Expect", "Host", "If-Modified-Since", "If-None-Match", "Origin"),
            *("Range", "Referer", "Sec-Fetch-Site", "Transfer-Encoding", "X-Forwarded-For", "X-HTTP-Method-Override"),
        ]
    ),
    _LATIN1 | st.sampled_from(["bytes=5-1", "gzip", "chunked", "a b", "[::1", "*", '"', "same-origin", "DELETE"]),
    max_size=3,
)


def multipart(fields: list[tuple[str, str]], more: str) -> bytes:
    """A body with the boundary x; `more` goes into each part's headers."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n' for name, value in fields]
    return "".join([*parts, "--x--\r\n"]).encode(errors="replace")


def form(fields: list[tuple[str, str]]) -> bytes:
    return urlencode(fields, errors="replace").encode()


_MORE = st.sampled_from(
    ["", '; filename="a"', "\r\nContent-Type: text/plain; charset=utf-7", "\r\nContent-Length: -1", ";"]
)
_BODY = st.one_of(
    st.tuples(_ANY_FIELDS.map(form), st.just(_FORM) | _TYPES),
    st.tuples(st.builds(multipart, _ANY_FIELDS, _MORE), st.just("multipart/form-data; boundary=x") | _TYPES),
    st.tuples((_JSON | _ANY_FIELDS.map(dict)).map(json.dumps).map(str.encode), st.just("application/json") | _TYPES),
    st.tuples(_ANY_FIELDS.map(dict).map(json.dumps).map(lambda text: text.encode("utf-16")), _TYPES),
    st.tuples(st.binary(max_size=100), _TYPES | _LATIN1),
)


def ask(client: FlaskClient, method: str, path: str, query: str = "", **other: Any) -> tuple[int, Any]:
    """The status and the JSON of the answer, after looking at what holds for each; `path` and `query` are raw."""
    builder = EnvironBuilder(method=method)
    environ = builder.get_environ()
    body = other.get("body", b"")
    environ |= {"PATH_INFO": path, "QUERY_STRING": query, "CONTENT_TYPE": other.get("content_type", "")}
    environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in other.get("headers", {}).items()}
    content, line, headers = run_wsgi_app(client.application, environ, buffered=True)
    status, text = int(line.split()[0]), b"".join(content)
    assert status < 500, text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Set-Cookie" not in headers
    if status < 400:
        return status, text
    if method == "HEAD":
        return status, None
    answer = json.loads(text)
    assert set(answer) == {"code", "message", "field", "errors"}
    assert answer["code"]
    assert answer["message"]
    return status, answer


@_PROPERTY
@given(body=_BODY, query=_LATIN1, headers=_HEADERS)
@example(body=(form([*FLIGHT.items(), ("DepDelay", "nan")]), _FORM), query="", headers={})
def test_submit(client: FlaskClient, body: tuple[bytes, str], query: str, headers: dict[str, str]) -> None:
    status, answer = ask(client, "POST", SUBMIT, query, body=body[0], content_type=body[1], headers=headers)
    assert status in (202, 400) or headers
    if status == 202:
        assert is_uuid(json.loads(answer)["id"])
    elif status == 400:
        for error in answer["errors"]:
            assert error["code"]
            assert error["field"] is not None
            assert error["accepted"]


@_PROPERTY
@given(uuid=st.uuids().map(str) | _LATIN1, query=_LATIN1.map("wait={}".format) | _LATIN1, headers=_HEADERS)
@example(uuid=str(uuid4()), query="wait=-0.0&wait=30", headers={})
@example(uuid=str(uuid4()), query="wait=0_0", headers={})
@example(uuid="/0", query="wait=\n", headers={})
def test_answer(client: FlaskClient, uuid: str, query: str, headers: dict[str, str]) -> None:
    if any(digit in query for digit in "123456789"):
        query = "wait=0"  # a wait that is granted would be held
    ask(client, "GET", RESPONSE + uuid, query, headers=headers)


@_PROPERTY
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW"]),
    start=st.sampled_from(["", "/", "//", FORM, SUBMIT, RESPONSE, "/static/", "/static/../", "/healthz"]),
    rest=_LATIN1,
    headers=_HEADERS,
)
def test_any_path(client: FlaskClient, method: str, start: str, rest: str, headers: dict[str, str]) -> None:
    ask(client, method, start + rest, headers=headers)


def _ends(consumer: Consumer, partitions: int) -> list[TopicPartition]:
    numbers = [TopicPartition(REQUEST_TOPIC, number) for number in range(partitions)]
    return [TopicPartition(REQUEST_TOPIC, p.partition, consumer.get_watermark_offsets(p)[1]) for p in numbers]


@pytest.fixture(scope="module", autouse=True)
def begins(stack: Any) -> Iterator[tuple[Consumer, list[TopicPartition]]]:
    """A consumer, and where the request topic ended before these tests."""
    consumer = Consumer({"bootstrap.servers": stack.settings.kafka_bootstrap, "group.id": "valid"})
    yield consumer, _ends(consumer, stack.settings.topic_partitions)
    consumer.close()


def test_what_was_accepted_is_valid(client: FlaskClient, begins: tuple[Consumer, list[TopicPartition]]) -> None:
    """Every message that the tests above brought onto the topic."""
    assert ask(client, "POST", SUBMIT, body=form([*FLIGHT.items()]), content_type=_FORM)[0] == 202
    consumer, starts = begins
    new = sum(end.offset - start.offset for start, end in zip(starts, _ends(consumer, len(starts)), strict=True))
    consumer.assign(starts)
    messages = consumer.consume(new, timeout=60)
    assert len(messages) == new > 0
    for message in messages:
        assert message.error() is None
        assert message.key().decode() == Request.model_validate_json(message.value()).UUID
