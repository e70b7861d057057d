"""The web app serves the page of Agile_Data_Code_2; `test_line.py` plays it on the whole pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pymongo.database import Database

from flight_delays.contract import Collection
from flight_delays.data.distances import PAIRS_FILE, import_distances, read_pairs
from tests.web.form import FLIGHT, SUBMIT
from tests.web.original_page import FORM, browser, poll, submit
from tests.web.test_answer import response

pytestmark = pytest.mark.integration


def test_the_page_gets_its_prediction(web_app: Callable[..., Any], mongo: Database[dict[str, Any]]) -> None:
    import_distances(mongo[Collection.DISTANCES], read_pairs(PAIRS_FILE))
    with web_app() as url, browser(url) as page:
        uuid = submit(page, FORM)
        assert poll(page, uuid) is None
        document = response(uuid)
        del document["FlightNum"]
        mongo[Collection.RESPONSES].insert_one(document)
        found = poll(page, uuid)
        assert found is not None
        assert (found["Prediction"], found["Origin"], found.get("FlightNum")) == (2, "EWR", None)


def test_the_page_polls_on_while_mongodb_is_away(web_app: Callable[..., Any]) -> None:
    with web_app(mongo="mongodb://127.0.0.1:1/") as url, browser(url) as page:
        assert poll(page, "123e4567-e89b-12d3-a456-426614174000") is None


@pytest.mark.parametrize(
    ("body", "headers", "content_type"),
    [
        ({"data": FLIGHT}, {}, "application/json"),
        ({"data": FLIGHT}, {"X-Requested-With": "XMLHttpRequest"}, "text/plain; charset=utf-8"),
        ({"data": FLIGHT}, {"X-Requested-With": "XMLHttpRequest", "Accept": "application/json"}, "application/json"),
        ({"json": FLIGHT}, {"X-Requested-With": "XMLHttpRequest"}, "application/json"),
    ],
)
def test_only_a_form_of_such_a_page_gets_its_json_as_text(
    client: Any, body: dict[str, Any], headers: dict[str, str], content_type: str
) -> None:
    accepted = client.post(SUBMIT, headers=headers, **body)
    assert accepted.headers["Content-Type"] == content_type
    assert accepted.get_json(force=True)["status"] == "OK"
