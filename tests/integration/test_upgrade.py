"""This code on the state that the first release wrote."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from flight_delays import predictor, store
from flight_delays.contract import Collection
from stack import state
from stack.up import submit_flight
from tests.conftest import settings_in
from tests.integration.line import goes_on
from tests.integration.old_state import EXPECTED, running, unpack
from tests.web.form import RESPONSE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_state_of_the_first_release_is_taken_over(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "moved" / "here", 3_000)
    unpack(settings)
    assert state.found_format(settings) == 1
    with running(settings) as line:
        assert json.loads((settings.home / "state.json").read_text())["release"] == state.release()
        for uuid, known in EXPECTED["answers"].items():
            assert httpx.get(f"{line.web_url}{RESPONSE}{uuid}").json() == known
        db = store.connect(settings)
        assert sum(1 for _ in db[Collection.DISTANCES].find({})) == EXPECTED["distances"]

        before = predictor.read_state(db).serving
        assert before is not None
        outcome = predictor.reconcile(settings)
        assert outcome.result is predictor.Result.REPAIRED  # its engine is another process now
        assert outcome.deployment.version == EXPECTED["champion"]
        assert outcome.deployment.generation == EXPECTED["generation"] + 1
        assert goes_on(settings, before, outcome.deployment), "where the old one stood"

        for uuid in EXPECTED["pending"]:  # were on the topic when the old release was stopped
            answer = httpx.get(f"{line.web_url}{RESPONSE}{uuid}", params={"wait": 20}, timeout=30).json()
            assert answer["status"] == "OK", answer
        new = submit_flight(settings, 30)["prediction"]
        assert (new["ModelVersion"], new["Deployment"]) == (EXPECTED["champion"], outcome.deployment.generation)
        for uuid, known in EXPECTED["answers"].items():
            assert httpx.get(f"{line.web_url}{RESPONSE}{uuid}").json() == known
        db.client.close()
