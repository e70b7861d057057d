"""The form's page, as a person with a browser sees it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from pymongo.database import Database

from flight_delays.contract import BUCKETS, Collection
from tests.web.form import FORM
from tests.web.test_scoreboard import PAGE as SCOREBOARD
from tests.web.test_scoreboard import replay

pytestmark = [pytest.mark.browser, pytest.mark.integration]

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def url(web_app: Callable[..., Any]) -> Iterator[str]:
    """One web app for all tests that leave it as it is."""
    with web_app() as url:
        yield url


def answer(uuid: str) -> dict[str, Any]:
    """A prediction as the sink writes it."""
    now = dt.datetime.now(dt.UTC)
    day = dt.datetime(2016, 12, 25, tzinfo=dt.UTC)
    flight = {"Carrier": "AA", "FlightNum": "1519", "Origin": "ATL", "Dest": "SFO", "DepDelay": 5.0, "FlightDate": day}
    predicted = {"Distance": 2139.0, "Prediction": 3, "Probability": [0.0, 0.05, 0.2, 0.75], "ModelVersion": "v"}
    return {"_id": uuid, "UUID": uuid, "Timestamp": now, "PredictedAt": now} | flight | predicted


def submit(page: Page) -> str:
    """Presses Predict, again where a Kafka that has just started took more than 3 s; returns the request's UUID."""
    for _ in range(5):
        with page.expect_response(lambda response: response.request.method == "POST") as posted:
            page.get_by_role("button", name="Predict", exact=True).click()
        if posted.value.status != 503:
            break
        expect(page.locator("#problem")).to_contain_text("Not available just now")
    assert posted.value.status == 202
    return str(posted.value.json()["id"])


def test_prediction_of_the_whole_line(line: Any, page: Page) -> None:
    """Through Kafka, Spark and MongoDB: the original's example, which the model never saw, then a route it knows."""
    page.goto(line.web_url)
    assert page.url.endswith(FORM)
    values = {name: page.input_value(f"#{name}") for name in ("DepDelay", "Carrier", "FlightDate", "Origin", "Dest")}
    assert values == {"DepDelay": "5", "Carrier": "AA", "FlightDate": "2016-12-25", "Origin": "ATL", "Dest": "SFO"}
    submit(page)
    expect(page.locator("#label")).to_have_text(
        re.compile("|".join(re.escape(b.label) for b in BUCKETS)), timeout=20_000
    )
    expect(page.locator("#unseen")).to_contain_text("origin ATL")

    page.locator("#known-example").click()
    uuid = submit(page)
    expect(page.locator("#request-id")).to_have_text(uuid, timeout=20_000)
    expect(page.locator("#unseen")).to_be_hidden()
    known = re.compile(r"scheduled \d\d:\d\d to \d\d:\d\d, weather in EWR \(\d+ °F\), recent delays into SFO")
    expect(page.locator("#conditions")).to_have_text(known)
    shares = [float(text.rstrip(" %")) for text in page.locator(".percent").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    winner = page.locator("tr.winner")
    assert float(winner.locator(".percent").inner_text().rstrip(" %")) == max(shares)
    assert page.locator("#label").inner_text() in winner.inner_text()
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", page.locator("#model").inner_text())
    assert re.fullmatch(r"\d+ ms|\d+\.\d s", page.locator("#took").inner_text())


@pytest.mark.parametrize("width", [390, 1280])
def test_answer_and_errors_at_any_width(
    url: str, mongo: Database[dict[str, Any]], browser: Browser, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(url + FORM)
    page.fill("#Carrier", "zz")
    page.fill("#DepDelay", "99999")
    page.keyboard.press("Enter")
    expect(page.locator("#Carrier-error")).to_contain_text("ZZ is not known")
    expect(page.locator("#DepDelay-error")).to_contain_text("-1440 to 4320")
    expect(page.locator("#Carrier")).to_be_focused()
    assert page.get_attribute("#DepDelay", "aria-invalid") == "true"
    expect(page.locator("#Origin-error")).to_be_hidden()

    page.fill("#Carrier", "aa")
    page.fill("#DepDelay", "5")
    mongo[Collection.RESPONSES].insert_one(answer(submit(page)))
    expect(page.locator("#label")).to_have_text("Very Late (30+ Minutes Late)")
    expect(page.locator("#label")).to_be_in_viewport()
    expect(page.get_by_text("most likely").filter(visible=True)).to_have_count(1)  # not by colour alone
    assert page.locator(".percent").all_inner_texts() == ["0.0 %", "5.0 %", "20.0 %", "75.0 %"]
    expect(page.locator("#Carrier-error")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_what_was_known_at_departure_is_told(url: str, mongo: Database[dict[str, Any]], page: Page) -> None:
    page.goto(url + FORM)
    page.fill("#CRSDepTime", "07:15")
    known = {"CRSDepTime": "0715", "CRSArrTime": "0955", "OriginTemperature": 38.6, "DestGain7Days": 0.0}
    mongo[Collection.RESPONSES].insert_one(answer(submit(page)) | known)
    expect(page.locator("#conditions")).to_have_text(
        "scheduled 07:15 to 09:55, weather in ATL (39 °F), recent delays into SFO"
    )
    page.locator("#known-example").click()
    expect(page.locator("#CRSDepTime")).to_have_value("")  # else the example would not be the example
    mongo[Collection.RESPONSES].insert_one(answer(submit(page)))
    expect(page.locator("#conditions")).to_have_text("nothing for this day")
    expect(page.locator("#flight-title")).to_have_text(re.compile("^AA 1519, ATL to SFO, December 25, 2016"))
    page.fill("#FlightNum", "")
    unnumbered = answer(submit(page)) | {"Dest": "LAX"}
    del unnumbered["FlightNum"]
    mongo[Collection.RESPONSES].insert_one(unnumbered)
    expect(page.locator("#flight-title")).to_have_text(re.compile("^AA flight, ATL to LAX, December 25, 2016"))


def test_no_answer_is_said_and_a_late_one_still_shown(url: str, mongo: Database[dict[str, Any]], page: Page) -> None:
    page.goto(url + FORM)
    uuid = submit(page)
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#problem")).to_contain_text("No prediction came within 10 seconds", timeout=12_000)
    mongo[Collection.RESPONSES].insert_one(answer(uuid))
    expect(page.locator("#label")).to_have_text("Very Late (30+ Minutes Late)")
    expect(page.locator("#problem")).to_be_hidden()


def test_rejection_is_said(url: str, mongo: Database[dict[str, Any]], page: Page) -> None:
    page.goto(url + FORM)
    document = {"_id": "t-0-1", "UUID": submit(page), "reason": "out_of_range", "field": "DepDelay"}
    mongo[Collection.REJECTED].insert_one(document)
    expect(page.locator("#problem")).to_contain_text("out_of_range, field DepDelay")


@pytest.mark.parametrize("part", ["kafka", "mongo"])
def test_unavailable_is_said(web_app: Callable[..., Any], page: Page, part: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    with web_app(**{part: {"kafka": NOWHERE, "mongo": f"mongodb://{NOWHERE}/"}[part]}) as url:
        page.goto(url + FORM)
        page.get_by_role("button", name="Predict", exact=True).click()
        expect(page.locator("#problem")).to_contain_text("Not available just now", timeout=6_000)
        expect(page.locator("#problem")).to_contain_text({"kafka": "Kafka", "mongo": "MongoDB"}[part])
        expect(page.locator("#problem")).to_be_in_viewport()


@pytest.mark.parametrize("width", [390, 1280])
def test_rate_limit_is_said(web_app: Callable[..., Any], browser: Browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    with web_app(FLIGHTS_WEB_RATE_LIMIT="1/hour") as url:
        page.goto(url + FORM)
        submit(page)
        page.get_by_role("button", name="Predict", exact=True).click()
        expect(page.locator("#problem")).to_have_text(re.compile(r"Too many flights.*again in \d+ (s|minutes)\."))
        expect(page.locator("#problem")).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_web_app_gone_is_said(web_app: Callable[..., Any], page: Page) -> None:
    with web_app() as url:
        page.goto(url + FORM)
    page.get_by_role("button", name="Predict", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("cannot be reached")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_scoreboard_shows_a_replay_as_it_grows(url: str, mongo: Database[Any], page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url + SCOREBOARD)
    expect(page.locator("#status")).to_contain_text("airflow dags trigger flight_delay_replay")
    mongo[Collection.SCOREBOARD].insert_one(replay("a", 1, "running"))
    expect(page.locator("#status")).to_contain_text("1 answered")
    expect(page.locator("#scores")).to_contain_text("So far")
    mongo[Collection.SCOREBOARD].replace_one({"_id": "a"}, replay("a", 3))
    expect(page.locator("#status")).to_contain_text("Done: 3 of 3 flights sent, 3 answered")
    expect(page.locator("#groups")).to_contain_text("LGA")
    expect(page.locator("#confusion .right")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    mongo[Collection.SCOREBOARD].insert_one(replay("b", 0, "running"))
    page.select_option("#replay", "a", timeout=20_000)
    assert page.url.endswith("?replay=a")
    page.reload()
    expect(page.locator("#status")).to_contain_text("Done")
