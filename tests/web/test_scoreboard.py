"""The scoreboard's endpoints."""

from __future__ import annotations

import datetime as dt
from typing import Any

from flask.testing import FlaskClient

from flight_delays.answers.scoreboard import Scoreboard
from flight_delays.contract import Collection
from tests.conftest import Mongo

PAGE = "/flights/delays/scoreboard"


def replay(name: str, answers: int = 3, state: str = "done") -> dict[str, Any]:
    """A replay's document, as `flight_delays.answers.replay` writes it."""
    board = Scoreboard([-20.0, 5.0, 90.0], ["AA", "UA", "UA"], ["EWR", "JFK", "LGA"])
    for number in range(answers):
        board.add(number, [0.1, 0.2, 0.3, 0.4], "20260101T000000Z-00000000")
    now = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    about = {"StartedAt": now, "UpdatedAt": now, "First": "2013-12-01", "Last": "2013-12-31", "Rate": 50}
    score = board.summary()
    return {"_id": name, **about, "State": state, "Flights": 3, "Sent": 3, **score, "Expected": score["SoFar"] or {}}


def test_without_replays_there_is_nothing_to_show(client: FlaskClient) -> None:
    assert client.get(f"{PAGE}/score").json == {"replays": [], "score": None}


def test_the_newest_replay_is_shown_and_others_by_their_id(client: FlaskClient, mongo: Mongo) -> None:
    mongo[Collection.SCOREBOARD].insert_many([replay("first"), replay("second", 0, "running")])
    newest = client.get(f"{PAGE}/score").json
    assert newest is not None
    assert [each["_id"] for each in newest["replays"]] == ["second", "first"]
    assert (newest["score"]["_id"], newest["score"]["SoFar"]) == ("second", None)
    first = client.get(f"{PAGE}/score", query_string={"replay": "first"}).json
    assert first is not None
    assert first["score"]["SoFar"]["accuracy"] == 1 / 3
    assert first["score"]["StartedAt"] == "2026-01-01T12:00:00Z"


def test_an_unknown_replay_is_404_and_no_operator_is_one(client: FlaskClient) -> None:
    for wanted in ("nothing", '{"$ne": 1}', "x" * 5000):
        refused = client.get(f"{PAGE}/score", query_string={"replay": wanted})
        assert (refused.status_code, refused.json["code"]) == (404, "unknown_replay"), wanted  # type: ignore[index]


def test_the_page_shows_without_any_service_and_its_score_says_503(away: FlaskClient) -> None:
    page = away.get(PAGE)
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert away.get(f"{PAGE}/score").status_code == 503
