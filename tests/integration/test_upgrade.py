"""This code on the state that the first release wrote."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
import pytest

from flight_delays.contract import Collection
from flight_delays.errors import PredictorError
from flight_delays.infra import mongo
from flight_delays.predictor.engine import ping
from flight_delays.predictor.events import Kind
from flight_delays.predictor.state import read_state
from flight_delays.settings import LOOPBACK
from stack import state
from stack.up import submit_flight
from tests.conftest import Stack, settings_in
from tests.integration.line import check, goes_on, reconcile
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
        db = mongo.connect(settings)
        assert sum(1 for _ in db[Collection.DISTANCES].find({})) == EXPECTED["distances"]

        before = read_state(db).serving
        assert before is not None
        outcome = reconcile(settings)
        assert outcome.result is Kind.REPAIRED  # its engine is another process now
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
        only_its_owner_may_use_spark(line)
        assert submit_flight(settings, 30)["status"] == "OK"


def only_its_owner_may_use_spark(line: Stack) -> None:
    settings = line.settings
    ping(settings)
    url = settings.spark_connect_url
    for stranger in (url.replace("localhost", LOOPBACK), f"{url}/;token=wrong"):
        with pytest.raises(PredictorError, match="authentication token") as caught:
            ping(settings.model_copy(update={"spark_connect_url": stranger}))
        assert "wrong" not in str(caught.value)
    manager = line.supervisor.process()
    assert manager is not None
    words = []
    for process in manager.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            words += process.cmdline()
    assert "spark-internal" in words
    for secret in asdict(line.secrets).values():
        assert not any(secret in word for word in words), "any user may read it"

    def jobs() -> set[int]:  # that run: the query's
        [application] = httpx.get(f"{settings.spark_ui_url}/api/v1/applications").json()
        found = httpx.get(f"{settings.spark_ui_url}/api/v1/applications/{application['id']}/jobs?status=running").json()
        return {job["jobId"] for job in found}

    before = jobs()
    assert before
    for job in before:  # as a link on any web page does
        httpx.get(f"{settings.spark_ui_url}/jobs/job/kill/", params={"id": job})
    time.sleep(3)
    assert before <= jobs()
    assert check(settings) is not None
