"""What holds for every answer of the web app, also while Kafka and MongoDB are both away."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest
from flask import request
from flask.testing import FlaskClient
from pydantic import ValidationError

from flight_delays.model import registry
from flight_delays.settings import Settings
from tests.versions import UNREADABLE, stage
from tests.web.conftest import AWAY
from tests.web.form import FORM, SUBMIT
from webapp import create_app

NOWHERE = "127.0.0.1:1"
VERSION = "20260101T030000Z-1a2b3c4d"


def test_front_page_leads_to_the_form(away: FlaskClient) -> None:
    moved = away.get("/")

    assert (moved.status_code, moved.headers["Location"]) == (302, FORM)


def test_form_shows_without_any_service(away: FlaskClient) -> None:
    page = away.get(FORM)

    assert page.status_code == 200
    assert '<option value="ATL">' in page.text
    assert '<option value="AA">American Airlines' in page.text
    assert "<script>" not in page.text  # nothing inline: the content security policy would stop it
    assert "style=" not in page.text
    assert "//" not in page.text.replace("http://127.0.0.1", "")  # nothing from other hosts


@pytest.mark.parametrize("kind", ["a folder", "wrong types"])
@pytest.mark.parametrize("name", ["pointer.json", f"{VERSION}/metadata.json"])
def test_form_shows_whatever_the_pointer_or_the_model_is(tmp_path: Path, name: str, kind: str) -> None:
    (models := tmp_path / "models" / VERSION).mkdir(parents=True)
    (models.parent / "pointer.json").write_text(f'{{"champion": "{VERSION}"}}')
    (models.parent / name).unlink(missing_ok=True)
    UNREADABLE[kind](models.parent / name)
    (tmp_path / "data" / "flight_records").mkdir(parents=True)
    UNREADABLE[kind](tmp_path / "data" / "flight_records" / "manifest.json")
    app = create_app(Settings(home=tmp_path, kafka_bootstrap=NOWHERE, mongo_uri=f"mongodb://{NOWHERE}/"))

    page = app.test_client().get(FORM)

    assert (page.status_code, '<option value="ATL">' in page.text) == (200, True)


@pytest.mark.parametrize("vocabulary", [{}, {"Route": ["EWR"], "Carrier": ["UA"]}, {"Carrier": ["UA"]}])
def test_form_shows_with_a_model_of_any_vocabulary(tmp_path: Path, vocabulary: dict[str, list[str]]) -> None:
    version = registry.register(tmp_path / "models", stage(tmp_path / "staged", vocabulary=vocabulary))
    registry.promote(tmp_path / "models", version)
    app = create_app(Settings(home=tmp_path, kafka_bootstrap=NOWHERE, mongo_uri=f"mongodb://{NOWHERE}/"))

    assert app.test_client().get(FORM).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/shutdown", 404, "not_found"),
        ("GET", "/static/../__init__.py", 404, "not_found"),
        ("GET", SUBMIT, 405, "method_not_allowed"),
        ("POST", FORM, 405, "method_not_allowed"),
        ("DELETE", SUBMIT + "/response/x", 405, "method_not_allowed"),
        ("GET", SUBMIT + "/response/123", 400, "malformed_uuid"),
        ("GET", SUBMIT + "/response/" + "g" * 36, 400, "malformed_uuid"),
        ("GET", SUBMIT + "/response/" + "1" * 5000, 400, "malformed_uuid"),
        ("POST", SUBMIT, 400, "missing_field"),
    ],
)
def test_errors_are_json(away: FlaskClient, method: str, path: str, status: int, code: str) -> None:
    answer = away.open(path, method=method)

    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.json["message"]
    assert "field" in answer.json
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("path", [FORM, "/nothing", SUBMIT + "/response/123", "/static/predict.css", "/"])
def test_security_headers(away: FlaskClient, path: str) -> None:
    headers = away.get(path).headers

    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, "cross_site"),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:8888"}, "cross_site"),
        ({"Origin": "http://localhost:8888"}, "cross_site"),  # from a browser without Sec-Fetch-Site
        ({"Origin": "https://evil.example"}, "cross_site"),
        ({"Origin": "http://["}, "cross_site"),
        ({"Origin": "null"}, "cross_site"),  # from a page without an origin of its own
        ({"Origin": "http://localhost:5000"}, "missing_field"),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, "missing_field"),  # our own form without JavaScript
        ({"Sec-Fetch-Site": "none"}, "missing_field"),
        ({}, "missing_field"),
    ],
)
def test_other_sites_cannot_submit(headers: dict[str, str], code: str, away: FlaskClient) -> None:
    refused = away.post(SUBMIT, data={}, headers={"Host": "localhost:5000", **headers})

    assert refused.json["code"] == code


def test_a_name_that_leads_here_is_not_enough(away: FlaskClient, tmp_path: Path) -> None:
    """DNS rebinding: a stranger's page, whose name leads to 127.0.0.1, would be of the same origin as its answers."""
    for host in ("evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "[", "a b"):
        refused = away.get("/", headers={"Host": host})
        assert (refused.status_code, refused.json["code"]) == (403, "unknown_host"), host
        assert "FLIGHTS_WEB_HOSTS" in refused.json["message"]
    for host in ("localhost:5000", "LOCALHOST", "127.0.0.1:5000", "192.168.1.7", "[::1]:5000"):
        assert away.get("/nothing", headers={"Host": host}).status_code == 404, host
    proxied = create_app(
        Settings(home=tmp_path, web_hosts="flights.example,.cloud.example", web_bind="my_host", web_proxies=1, **AWAY)
    ).test_client()
    for host in ("flights.example", "5000-shell.cloud.example", "localhost", "my_host:5000"):
        assert proxied.get("/nothing", headers={"Host": host}).status_code == 404, host
    for host in ("more.flights.example", "cloud.example.evil.example", "notcloud.example"):
        assert proxied.get("/nothing", headers={"Host": host}).status_code == 403, host
    origin = {"Host": "localhost:5000", "Origin": "https://5000-shell.cloud.example"}
    assert proxied.post(SUBMIT, data={}, headers=origin).json["code"] == "missing_field"
    with pytest.raises(ValidationError, match="must be like"):
        Settings(web_hosts="https://flights.example:443/")


@pytest.mark.parametrize("wait", ["", "?wait=0.2", "?wait=30"])
def test_answer_while_mongodb_is_away(away: FlaskClient, wait: str) -> None:
    begin = time.monotonic()
    answer = away.get(f"{SUBMIT}/response/{uuid4()}{wait}")

    assert time.monotonic() - begin < 3
    assert (answer.status_code, answer.json["code"]) == (503, "mongodb_unavailable")
    assert answer.headers["Retry-After"]
    assert "accepted" not in answer.json["message"]


def test_health_while_both_are_away(away: FlaskClient) -> None:
    begin = time.monotonic()
    health = away.get("/healthz")

    assert time.monotonic() - begin < 3
    assert (health.status_code, health.json) == (503, {"status": "down", "kafka": "down", "mongodb": "down"})


def test_internal_error_shows_no_trace(away: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(away.application.view_functions, "predictions.form", lambda: 1 / 0)
    answer = away.get(FORM)

    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "division" not in answer.text


@pytest.mark.parametrize("rate", ["2/minute", "100/second;2/hour"])
def test_rate_limit_per_client(tmp_path: Path, rate: str) -> None:
    client = create_app(Settings(home=tmp_path, web_rate_limit=rate, mongo_uri=f"mongodb://{NOWHERE}/")).test_client()
    for _ in range(2):
        assert client.post(SUBMIT).json["code"] == "missing_field"
    refused = client.post(SUBMIT, headers={"X-Forwarded-For": "10.1.1.1"})  # a client cannot choose its address

    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.json["message"].startswith("Too many flights at once: 2 per 1 ")
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.headers["Content-Security-Policy"]
    assert client.post(SUBMIT, environ_overrides={"REMOTE_ADDR": "10.1.1.1"}).json["code"] == "missing_field"
    assert client.get(FORM).status_code == 200  # pages, and questions for answers, are not counted


@pytest.mark.parametrize("proxies", [0, 1])
def test_forwarded_headers_are_believed_of_as_many_proxies_as_there_are(tmp_path: Path, proxies: int) -> None:
    settings = Settings(home=tmp_path, web_rate_limit="1/hour", web_proxies=proxies, web_hosts=".example", **AWAY)
    client = create_app(settings).test_client()
    forwarded = {"X-Forwarded-Host": "spoofed.invalid, flights.example", "X-Forwarded-Proto": "https"}
    forwarded |= {"X-Forwarded-Prefix": "/spoofed, /below", "X-Forwarded-Port": "1"}

    with client:
        page = client.get(FORM, headers=forwarded)
        assert request.url_root == ("https://flights.example/below/" if proxies else "http://localhost/")
    assert f'action="{"/below" * proxies}{SUBMIT}"' in page.text
    assert client.get("/", headers=forwarded).headers["Location"] == "/below" * proxies + FORM
    for host in ("spoofed.invalid", "flights.example, spoofed.invalid"):
        assert client.get(FORM, headers={"X-Forwarded-Host": host}).status_code == (403 if proxies else 200)
    for address in ("192.0.2.1", "192.0.2.2"):
        first = client.post(SUBMIT, headers={"X-Forwarded-For": address}).status_code
        assert first == (400 if proxies or address == "192.0.2.1" else 429)
    assert client.post(SUBMIT, headers={"X-Forwarded-For": "192.0.2.3, 192.0.2.1"}).status_code == 429


def test_no_rate_limit_unless_asked_for(away: FlaskClient) -> None:
    assert {away.post(SUBMIT).status_code for _ in range(100)} == {400}
