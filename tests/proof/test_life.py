"""The predictor's life on real services, without Airflow: wanted state, swaps, failures, and never two that answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from flight_delays.contract import DEAD_LETTER_TOPIC, PAYLOAD_BYTES, REQUEST_TOPIC, RESPONSE_TOPIC, Collection
from flight_delays.errors import BrokerError, CanaryError, OvertakenError, PredictorError, RegistryError
from flight_delays.infra import mongo
from flight_delays.infra.kafka import ends
from flight_delays.infra.topics import ensure_topics
from flight_delays.model import registry
from flight_delays.predictor import canary, control, engine, events, handover, probe, timeouts
from flight_delays.predictor.events import Kind
from flight_delays.predictor.state import Action, Deployment, State, Wanted, change_state, read_state
from flight_delays.predictor.status import read_status
from flight_delays.settings import Settings
from tests.conftest import Stack
from tests.integration.line import check, compressed, flight, goes_on, messages_on, put, put_bomb, reconcile, until
from tests.proof import faults
from tests.proof.witness import Witness

_ACT = """
import sys
from flight_delays.predictor.control import reconcile
from flight_delays.predictor.state import Action
from flight_delays.infra import mongo
from flight_delays.settings import get_settings
with mongo.database(get_settings()) as db:
    reconcile(get_settings(), db, Action(sys.argv[1]), *sys.argv[2:])
"""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def versions(engines: Stack, other_version: str) -> tuple[str, str]:
    """The champion, and another version that predicts differently."""
    champion = registry.read_pointer(engines.settings.models).champion
    assert champion is not None
    return champion, other_version


@pytest.fixture(autouse=True)
def settled(engines: Stack, versions: tuple[str, str]) -> Iterator[None]:
    """Before each test the champion serves and nothing failed; afterwards, one query answers or none is wanted."""
    reconcile(engines.settings, Action.DEPLOY, versions[0])
    yield
    engines.await_ready("spark-connect")
    state = now(engines)
    assert not state.in_progress
    wanted = {state.serving.generation} if state.wanted is Wanted.RUNNING and state.serving else set()
    assert faults.answering(engines.settings) <= wanted, "somebody else answers"


def now(engines: Stack) -> State:
    return read_state(mongo.connect(engines.settings))


def serving(engines: Stack) -> Deployment:
    found = now(engines).serving
    assert found is not None
    return found


def last(engines: Stack) -> events.Event:
    return events.last_events(mongo.connect(engines.settings), 1)[0]


def unhealthy(settings: Settings) -> probe.Unhealthy:
    found = probe.probe(settings)
    assert found is not None
    return found


def damage_checkpoint(engines: Stack) -> None:
    """So the next query starts at the beginning of the topic."""
    for file in (engines.settings.checkpoints / serving(engines).checkpoint).rglob("*"):
        if file.is_file():
            file.write_text("v1\n{garbage\n")


def damaged(settings: Settings, version: str, name: str) -> Path:
    """Moves a file of the version away; returns where it is."""
    model = settings.models / version
    aside = settings.home / f"aside-{name}"
    shutil.move(model / name, aside)
    return aside


def put_flights(engines: Stack, count: int) -> list[str]:
    flights = [flight() for _ in range(count)]
    put(engines, *(json.dumps(each).encode() for each in flights))
    return [each["UUID"] for each in flights]


def await_answers(engines: Stack, uuids: list[str]) -> None:
    database = mongo.connect(engines.settings)
    left = set(uuids)

    def answered() -> bool:
        found = database[Collection.RESPONSES].find({"_id": {"$in": list(left)}}, {"_id": 1})
        left.difference_update(document["_id"] for document in found)
        return not left

    until(answered, 120, f"{len(uuids)} answers")


# --- wanted state ----------------------------------------------------------------------------------------------------


def test_a_stop_lasts_until_a_person_ends_it_and_loses_nothing(engines: Stack) -> None:
    before = serving(engines)
    stopped = reconcile(engines.settings, Action.STOP, reason="holiday", dag_run="flight_delay_predictor/test")
    assert stopped.result is Kind.STOPPED
    assert (last(engines).Kind, last(engines).Reason) == (Kind.STOPPED, "holiday")
    assert last(engines).DagRun == "flight_delay_predictor/test"
    assert reconcile(engines.settings, Action.STOP).result is Kind.UNCHANGED
    asked = put_flights(engines, 1)
    assert reconcile(engines.settings).result is Kind.UNCHANGED
    assert faults.answering(engines.settings) == set()
    assert check(engines.settings) is None
    assert probe.probe(engines.settings) is None, "a stop is no illness"
    started = reconcile(engines.settings, Action.START)
    assert started.result is Kind.STARTED
    assert started.deployment is not None
    assert goes_on(engines.settings, before, started.deployment)
    await_answers(engines, asked)
    assert faults.answering(engines.settings) == {started.deployment.generation}


def test_a_restart_goes_on_beside_and_reconcile_leaves_it_alone(engines: Stack) -> None:
    before = serving(engines)
    restarted = reconcile(engines.settings, Action.RESTART)
    assert restarted.result is Kind.RESTARTED
    assert restarted.deployment is not None
    assert restarted.deployment.checkpoint != before.checkpoint
    assert reconcile(engines.settings).result is Kind.UNCHANGED
    assert reconcile(engines.settings, Action.START).result is Kind.UNCHANGED
    assert faults.answering(engines.settings) == {before.generation + 1}


def test_too_few_task_slots_are_said_before_a_query_starts(engines: Stack) -> None:
    """Whatever model it is, and without a word against it."""
    before = serving(engines)
    with engine._session(engines.settings, before.session_id) as spark:
        engine._check_slots(spark, engines.settings, 2)
        with pytest.raises(engine.SlotsError, match=r"has 64 task slots, and 40 queries on 2 partitions need 80"):
            engine._check_slots(spark, engines.settings, 40, wait_seconds=0)
    assert reconcile(engines.settings).result is Kind.UNCHANGED


def test_an_overtaken_run_starts_and_stops_nothing(engines: Stack) -> None:
    before = serving(engines)
    zombie = control._Run(engines.settings, mongo.connect(engines.settings))
    restarted = reconcile(engines.settings, Action.RESTART).deployment
    assert restarted is not None
    for action in (Action.RESTART, Action.STOP):
        with pytest.raises(OvertakenError, match="it decides"):
            zombie.do(action)
    late = control._Run(engines.settings, mongo.connect(engines.settings))
    claimed = late._claim(before.version)
    change_state(mongo.connect(engines.settings), late.state, candidate=None)  # another run cleared up meanwhile
    with pytest.raises(OvertakenError):
        late._launch(claimed)
    assert faults.answering(engines.settings) == {restarted.generation}, "what it had started is gone again"
    assert serving(engines).session_id == restarted.session_id


def test_three_deployments_at_once_leave_one_query(engines: Stack, versions: tuple[str, str]) -> None:
    done: list[str] = []

    def deploy(version: str) -> None:
        try:
            reconcile(engines.settings, Action.DEPLOY, version)
        except Exception as error:  # noqa: BLE001 - overtaken, or its session ended by another
            done.append(type(error).__name__)
        else:
            done.append("done")

    threads = [threading.Thread(target=deploy, args=(version,)) for version in (*versions, versions[1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3
    reconcile(engines.settings)  # what the watch does, should the last word have been an overtaken one's
    champion = registry.read_pointer(engines.settings.models).champion
    assert serving(engines).version == champion
    assert not now(engines).in_progress
    assert faults.answering(engines.settings) == {serving(engines).generation}


def test_a_burnt_session_and_a_restarted_server_are_repaired(engines: Stack) -> None:
    engine.stop_session(engines.settings, serving(engines).session_id)
    assert unhealthy(engines.settings).part is probe.Part.QUERY
    repaired = reconcile(engines.settings)
    assert repaired.result is Kind.REPAIRED
    engines.kill("spark-connect")
    repaired = reconcile(engines.settings)  # waits for the server
    assert repaired.result is Kind.REPAIRED
    assert (last(engines).Kind, last(engines).Generation) == (Kind.REPAIRED, serving(engines).generation)
    assert faults.answering(engines.settings) == {serving(engines).generation}


def test_a_repair_goes_on_where_a_killed_one_got_to(engines: Stack) -> None:
    engine.stop_session(engines.settings, serving(engines).session_id)
    process = subprocess.Popen([sys.executable, "-c", _ACT, "reconcile"], env=os.environ | engines.settings.environment)
    candidate = until(lambda: now(engines).candidate, 60, "a candidate")
    begun = engines.settings.checkpoints / candidate.checkpoint / "sources" / "0" / "0"
    until(begun.exists, 60, "its query")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    control._Run(engines.settings, mongo.connect(engines.settings))._clear_up()
    assert serving(engines).checkpoint == candidate.checkpoint


def test_nobody_waits_for_the_canaries_of_a_query_that_died(engines: Stack) -> None:
    patient = engines.settings.model_copy(update={"canary_timeout_seconds": 3600.0})
    run = control._Run(patient, mongo.connect(patient))
    engine.stop_session(engines.settings, serving(engines).session_id)
    with pytest.raises(PredictorError, match="Spark Connect server"):
        run._prove(serving(engines))


# --- swaps under traffic ---------------------------------------------------------------------------------------------


@pytest.fixture
def witness(engines: Stack, settled: None) -> Iterator[Witness]:
    """Ten flights a second, each answer held against the batch job of the model that it names in the end."""
    found = Witness(engines.settings, engines.web_url, rate=10)
    found.start()
    try:
        faults.recovered(found, 0)
        yield found
        found.finish()
        verdict = found.verdict()
        assert verdict.clean, verdict
        assert verdict.accepted > 50
    finally:
        found.finish()


def test_models_are_swapped_to_and_fro_under_traffic_in_both_modes(
    engines: Stack, witness: Witness, versions: tuple[str, str]
) -> None:
    begun = serving(engines).generation
    swaps = zip(versions[::-1] * 2, ("realtime", "microbatch", "microbatch", "realtime"), strict=True)
    for version, trigger in swaps:
        settings = engines.settings.model_copy(update={"trigger": trigger})
        done = reconcile(settings, Action.DEPLOY, version)
        assert done.result is Kind.REPLACED
        assert registry.read_pointer(settings.models).champion == version
        faults.recovered(witness, time.monotonic())
        batches = settings.checkpoints / serving(engines).checkpoint / "commits"
        if trigger == "microbatch":
            until(lambda: list(batches.glob("[0-9]*")), 20, "a batch of the classic mode")  # noqa: B023
        else:
            assert not list(batches.glob("[0-9]*")), "a real-time batch lasts minutes"
    assert faults.answering(engines.settings) == {begun + 4}


def test_a_new_query_answers_nothing_again(engines: Stack, versions: tuple[str, str]) -> None:
    def ends_of_answers() -> int:
        return sum(sum(ends(engines.settings, topic)) for topic in (RESPONSE_TOPIC, DEAD_LETTER_TOPIC))

    before = ends_of_answers()
    flights = [flight() for _ in range(300)]
    put(engines, *(json.dumps(each).encode() for each in flights), *[b"{"] * 30)
    until(lambda: ends_of_answers() >= before + 330, 60, "all answers")
    time.sleep(timeouts.ON_DISK_SECONDS)
    for version in (versions[1], versions[0]):  # neither commits a batch meanwhile
        assert reconcile(engines.settings, Action.DEPLOY, version).result is Kind.REPLACED
    engine.stop_session(engines.settings, serving(engines).session_id)
    assert reconcile(engines.settings).result is Kind.REPAIRED
    found = Counter((message.key() or b"").decode() for message in messages_on(engines, RESPONSE_TOPIC))
    assert [found[each["UUID"]] for each in flights] == [1] * 300


def test_a_death_in_the_middle_of_a_swap_loses_nothing(
    engines: Stack, witness: Witness, versions: tuple[str, str]
) -> None:
    environment = os.environ | engines.settings.environment | {"FLIGHTS_CANARY_TIMEOUT_SECONDS": "15"}
    for victim in ("task", "new", "old"):
        before, target = serving(engines), versions[serving_index(engines, versions) ^ 1]
        process = subprocess.Popen([sys.executable, "-c", _ACT, "deploy", target], env=environment)
        candidate = until(lambda: now(engines).candidate, 60, "a candidate")
        if victim == "task":
            process.send_signal(signal.SIGKILL)
        else:
            until(lambda: (found := now(engines).candidate) and found.query_id, 60, "its query")
            session = candidate if victim == "new" else before
            engine.stop_session(engines.settings, session.session_id)
        process.wait(120)
        reconcile(engines.settings, Action.START)
        assert serving(engines).version == target, victim
        assert not now(engines).in_progress
        faults.recovered(witness, time.monotonic())


def serving_index(engines: Stack, versions: tuple[str, str]) -> int:
    return versions.index(serving(engines).version)


def test_a_model_that_does_not_answer_leaves_the_old_one_serving(
    engines: Stack, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, prove = serving(engines), canary.prove

    def hasty(settings: Settings, deployment: int, timeout_seconds: float, *more: Any) -> list[str]:
        new = deployment > before.generation
        return prove(settings, deployment, 0.1 if new else timeout_seconds, *more)  # no new query is warm so soon

    with monkeypatch.context() as patch:
        patch.setattr(canary, "prove", hasty)
        with pytest.raises(CanaryError, match=f"deployment {before.generation + 1} has not answered"):
            reconcile(engines.settings, Action.DEPLOY, versions[1])
    assert now(engines).serving == before
    assert not now(engines).in_progress
    assert (last(engines).Kind, last(engines).Version) == (Kind.CANARY_FAILED, versions[1])
    assert versions[1] in now(engines).failed
    left_alone = reconcile(engines.settings)
    assert left_alone.result is Kind.UNCHANGED, "what failed is not tried again by itself"
    assert "not tried again" in left_alone.reason
    assert probe.probe(engines.settings) is None
    assert faults.answering(engines.settings) == {before.generation}
    asked = reconcile(engines.settings, Action.START)
    assert asked.result is Kind.REPLACED
    assert serving(engines).version == versions[1], "a person asked"
    assert now(engines).failed == {}


@pytest.mark.slow
def test_what_stopped_queries_held_leaves_the_servers_memory(engines: Stack, clock: faults.Clock) -> None:
    for _ in range(2):
        reconcile(engines.settings, Action.RESTART)
    before = faults.held(engines)
    assert before.queries > 2
    time.sleep(61)  # Spark Connect looks once a minute, and a query's hour begins when it finds it stopped
    try:
        clock.jump(7200)  # and it forgets a stopped query after an hour
        after = until(lambda: (h := faults.held(engines)).queries < before.queries and h, 90, "it to forget", every=5)
    finally:
        clock.jump(0)
    assert after.forests < before.forests


# --- what a person must mend -----------------------------------------------------------------------------------------


def test_a_broken_champion_is_given_up_and_the_previous_model_serves(engines: Stack, versions: tuple[str, str]) -> None:
    champion, other = versions
    registry.promote(engines.settings.models, other)
    aside = damaged(engines.settings, other, "metadata.json")
    try:
        engine.stop_session(engines.settings, serving(engines).session_id)  # and the old query is dead as well
        with pytest.raises(RegistryError, match=f"{other} is incomplete"):
            reconcile(engines.settings)
        assert serving(engines).version == champion
        assert other in now(engines).failed
        assert (last(engines).Kind, "incomplete" in last(engines).Reason) == (Kind.FAILED, True)
        assert reconcile(engines.settings).result is Kind.UNCHANGED
    finally:
        shutil.move(aside, engines.settings.models / other / "metadata.json")
    registry.promote(engines.settings.models, champion)
    registry.promote(engines.settings.models, other)
    assert reconcile(engines.settings).result is Kind.REPLACED, "promoted anew, it is tried anew"


def test_a_damaged_checkpoint_says_what_to_do_and_a_restart_mends_it(engines: Stack) -> None:
    ill = serving(engines)
    engine.stop_session(engines.settings, ill.session_id)
    damage_checkpoint(engines)
    with pytest.raises(PredictorError, match=r'is damaged, .*: run the DAG .* with {"action": "restart"}'):
        reconcile(engines.settings)
    assert now(engines).serving == ill
    assert not now(engines).in_progress
    asked = put_flights(engines, 1)
    assert reconcile(engines.settings, Action.RESTART).result is Kind.RESTARTED
    await_answers(engines, asked)


def test_a_broker_that_is_away_is_named_and_the_query_left_alone(engines: Stack) -> None:
    before = serving(engines)
    away = engines.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    with pytest.raises(BrokerError, match=r"127.0.0.1:1 \(FLIGHTS_KAFKA_BOOTSTRAP"):
        reconcile(away)
    assert now(engines).serving == before
    assert unhealthy(away).part is probe.Part.ANSWERS
    assert reconcile(away, Action.STOP).result is Kind.STOPPED, "a stop needs no Kafka"


def test_the_watch_sees_what_was_left_in_progress(engines: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    database = mongo.connect(engines.settings)
    state = now(engines)
    assert probe.probe(engines.settings) is None
    abandoned = state.next_deployment(serving(engines).version)
    change_state(database, state, candidate=abandoned, generation=abandoned.generation)
    assert probe.probe(engines.settings) is None, "a run is at work"
    monkeypatch.setattr(timeouts, "IN_PROGRESS_SECONDS", 0.0)
    found = unhealthy(engines.settings)
    assert (found.part, "left in progress" in found.reason) == (probe.Part.CHANGE, True)
    assert reconcile(engines.settings).result is Kind.UNCHANGED
    assert not now(engines).in_progress
    database[Collection.STATE].delete_many({})
    assert "was never deployed" in unhealthy(engines.settings).reason
    engine.stop_session(engines.settings, state.serving.session_id)  # type: ignore[union-attr]


# --- what lies on the topic ------------------------------------------------------------------------------------------


def test_a_flood_while_predictor_and_sink_are_stopped_costs_no_accepted_flight(engines: Stack) -> None:
    reconcile(engines.settings, Action.STOP)
    engines.supervisor.stop_service("sink")
    asked = put_flights(engines, 50)
    put(engines, *[b"x" * 100_000] * 400)
    asked += put_flights(engines, 50)
    engines.await_ready("sink")
    assert reconcile(engines.settings, Action.START).result is Kind.STARTED
    await_answers(engines, asked)
    rejected = mongo.connect(engines.settings)[Collection.REJECTED]
    flood = {"reason": "malformed_json", "payload_bytes": 100_000}
    until(lambda: rejected.count_documents(flood) == 400, 120, "the flood's dead letters")
    assert {len(document["payload"]) for document in rejected.find(flood, ["payload"])} == {PAYLOAD_BYTES}


def test_what_no_query_can_read_is_quarantined_and_all_else_answered(engines: Stack, versions: tuple[str, str]) -> None:
    reconcile(engines.settings, Action.STOP)
    with compressed(engines, REQUEST_TOPIC):
        asked = put_flights(engines, 178)
        _, first = put_bomb(engines, REQUEST_TOPIC)
        _, second = put_bomb(engines, REQUEST_TOPIC, size=900_000, count=400)
        asked += put_flights(engines, 50)
    assert reconcile(engines.settings, Action.START).result is Kind.STARTED
    await_answers(engines, asked)
    assert [(gap.partition, gap.first, gap.last) for gap in now(engines).gaps] == [
        (0, first, first),
        (0, second - 399, second),
    ]
    quarantined = [e for e in events.last_events(mongo.connect(engines.settings), 10) if e.Kind is Kind.QUARANTINED]
    assert len(quarantined) == 2
    assert "150,000,0" in quarantined[1].Reason
    engines.kill("spark-connect")
    await_answers(engines, put_flights_and(engines, lambda: reconcile(engines.settings)))
    await_answers(engines, put_flights_and(engines, lambda: reconcile(engines.settings, Action.DEPLOY, versions[1])))
    damage_checkpoint(engines)
    await_answers(engines, put_flights_and(engines, lambda: reconcile(engines.settings, Action.RESTART)))
    server = engines.supervisor.states()["spark-connect"]["pid"]
    with compressed(engines, REQUEST_TOPIC):  # now under the running query, which dies of it
        asked = put_flights(engines, 20)
        put_bomb(engines, REQUEST_TOPIC, partition=1)
        asked += put_flights(engines, 20)
    until(lambda: engines.supervisor.states()["spark-connect"]["pid"] not in (0, server), 60, "the server's death")
    assert reconcile(engines.settings).result is Kind.REPAIRED
    await_answers(engines, asked)
    assert len(now(engines).gaps) == 3
    assert probe.probe(engines.settings) is None


def put_flights_and(engines: Stack, act: Callable[[], object]) -> list[str]:
    uuids = put_flights(engines, 5)
    act()
    return uuids


def recreate_request_topic(engines: Stack) -> None:
    admin = AdminClient({"bootstrap.servers": engines.settings.kafka_bootstrap})
    admin.delete_topics([REQUEST_TOPIC])[REQUEST_TOPIC].result(20)
    until(lambda: REQUEST_TOPIC in ensure_topics(admin, engines.settings), 20, "the new topic")
    until(lambda: max(ends(engines.settings, REQUEST_TOPIC)) == 0, 20, "an empty topic")


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_every_request_of_a_recreated_topic_is_answered(engines: Stack, running: bool) -> None:
    reconcile(engines.settings, Action.STOP)
    recreate_request_topic(engines)  # so that few requests pass the offsets that are to be passed
    assert reconcile(engines.settings, Action.START).result is Kind.STARTED
    await_answers(engines, put_flights(engines, 20))
    before = serving(engines)
    if not running:
        reconcile(engines.settings, Action.STOP)
    high = max(ends(engines.settings, REQUEST_TOPIC))
    recreate_request_topic(engines)
    uuids = put_flights(engines, 2 * high + 200)  # so that the offsets of the old topic are in range of the new one
    assert max(ends(engines.settings, REQUEST_TOPIC)) > high
    if running:  # the query may have died of it
        assert probe.probe(engines.settings) is not None
    assert "deleted and recreated" in (handover.recreated(engines.settings, before) or "")
    assert reconcile(engines.settings, Action.START).result in (Kind.STARTED, Kind.REPAIRED)
    await_answers(engines, uuids)
    assert serving(engines).topic_id not in ("", before.topic_id)
    assert now(engines).topic_since == serving(engines).generation
    assert now(engines).gaps == (), "those of the topic that is gone"
    assert reconcile(engines.settings).result is Kind.UNCHANGED
    until(lambda: read_status(engines.settings).lag == 0, 20, "no lag")
