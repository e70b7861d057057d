"""The page of Agile_Data_Code_2 as a client: the calls of its JavaScript, and how that reads the answers.

jQuery posts the form. The page gives what jQuery made of the answer to `JSON.parse`, which throws where the content
type was JSON, because jQuery has parsed that already. Then the page polls each second. It reads the text whatever the
HTTP status, renders OK, asks again at WAIT and stops at anything else.
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from tests.web.form import FLIGHT, RESPONSE, SUBMIT

FORM = {name: FLIGHT[name] for name in ("DepDelay", "Carrier", "FlightDate", "Origin", "Dest")}
"""The fields of its form: no flight number."""


def browser(url: str) -> httpx.Client:
    """Sends what jQuery sends with each call."""
    return httpx.Client(base_url=url, headers={"X-Requested-With": "XMLHttpRequest", "Accept": "*/*"}, timeout=20)


def submit(page: httpx.Client, form: dict[str, str]) -> str:
    """The id that the page polls for."""
    answer = page.post(SUBMIT, data=form)
    assert answer.is_success, answer.text
    data = answer.json() if "json" in answer.headers["Content-Type"] else answer.text
    accepted = json.loads(data)
    assert accepted["status"] == "OK"
    return str(accepted["id"])


def poll(page: httpx.Client, uuid: str) -> dict[str, Any] | None:
    """The prediction that the page renders; None where it asks again."""
    answer = json.loads(page.get(RESPONSE + uuid).text)
    if answer.get("status") == "WAIT":
        assert answer["id"] == uuid
        return None
    assert answer.get("status") == "OK", f"the page stops at {answer}"
    return dict(answer["prediction"])


def predict(url: str, form: dict[str, str], seconds: float) -> dict[str, Any]:
    """From the form to what the page renders."""
    deadline = time.monotonic() + seconds
    with browser(url) as page:
        uuid = submit(page, form)
        while (prediction := poll(page, uuid)) is None:
            assert time.monotonic() < deadline, f"no prediction within {seconds} s"
            time.sleep(1)
    return prediction
