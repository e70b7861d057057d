"""The training DAG: when it runs, what it accepts, and what it tells the Spark job."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from unittest.mock import Mock

import pendulum
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction

from flight_delays.contract import DagId
from flight_delays.data import records
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.errors import DataError
from flight_delays.model import promotion, registry
from flight_delays.settings import PROJECT, get_settings
from flight_delays_airflow.names import SPARK_CONNECTION, AssetName, asset
from spark_jobs.train_model import parse
from tests.flights import import_records
from tests.versions import WORSE, beside, stage


@pytest.fixture(scope="module")
def dag():
    bag = DagBag(PROJECT / "dags" / f"{DagId.TRAINING}.py")
    assert bag.import_errors == {}
    return bag.dags[DagId.TRAINING]


def test_the_pointer_comes_last(dag):
    order = [task.task_id for task in dag.topological_sort()]
    assert order == ["prepare", "train", "register", "judge", "promote"]
    assert [task.task_id for task in dag.tasks if task.outlets] == ["promote"]


def test_the_job_is_the_projects_and_gets_what_prepare_found(dag):
    train = dag.get_task("train")
    assert Path(train.application) == PROJECT / "spark_jobs" / "train_model.py"
    assert Path(train.application).is_file()
    assert train._conn_id == SPARK_CONNECTION
    assert (train.application_args.operator.task_id, train.application_args.key) == ("prepare", "arguments")


@pytest.mark.parametrize(
    ("now", "first_run"),
    [
        ("2026-11-23T04:02:00Z", "2026-11-30T04:00:00Z"),  # a Monday, just after the scheduled time
        ("2026-11-23T19:00:00Z", "2026-11-30T04:00:00Z"),
        ("2026-11-26T12:00:00Z", "2026-11-30T04:00:00Z"),
        ("2026-11-30T03:59:59Z", "2026-11-30T04:00:00Z"),
        ("2026-11-30T04:00:20Z", "2026-11-30T04:00:00Z"),  # the scheduler is seconds late: not lost
    ],
)
def test_unpausing_starts_no_run_but_waits_for_monday(dag, monkeypatch, now, first_run):
    timetable = decode_timetable(encode_timetable(dag.timetable))
    monkeypatch.setattr(trigger, "utcnow", lambda: pendulum.parse(now))
    never_ran = {"last_automated_data_interval": None, "restriction": TimeRestriction(None, None, dag.catchup)}
    assert timetable.next_dagrun_info(**never_ran).run_after == pendulum.parse(first_run)


def test_no_records_is_said_at_once(dag, home):
    with pytest.raises(DataError, match=r"no flight records in .*: run the DAG flight_records first"):
        promotion.prepare(dag.params.dump(), "manual__1")


def test_the_job_understands_its_arguments(dag, home):
    manifest = import_records(NycFlights13(), months="2013-01..2013-02")
    with pytest.raises(DataError, match="2013-01, 2013-02: too few months to hold out 2"):
        promotion.prepare(dag.params.dump(), "manual__1")
    params = {**dag.params.dump(), "holdout_months": 1, "trees": 7}
    prepare = dag.get_task("prepare").python_callable
    prepared = prepare(params=params, run_id="manual__2026-01-05T04:00:00+00:00")
    assert parse(prepared["arguments"]) == {
        "records": records.month_files(),
        "output": Path(prepared["staged"]),
        "fingerprint": manifest.fingerprint,
        "trees": 7,
        "depth": 10,
        "seed": 42,
        "holdout_months": 1,
        "champion": None,
        "weather": home / "data" / "weather",
    }
    assert home / "models" in Path(prepared["staged"]).parents
    (Path(prepared["staged"]) / "half").touch()
    assert prepare(params=params, run_id="manual__2026-01-05T04:00:00+00:00") == prepared, "a retry"
    assert list(Path(prepared["staged"]).iterdir()) == []
    assert dag.get_task("train").execution_timeout <= dt.timedelta(hours=3)
    registry.promote(home / "models", version := promotion.register(str(stage(home / "staged"))))
    assert parse(prepare(params=params, run_id="next")["arguments"])["champion"] == home / "models" / version


def judge(dag, version, **params):
    """Calls the task; returns its result and the verdict that it shows as XCom."""
    ti = Mock()
    result = dag.get_task("judge").python_callable(version, params={**dag.params.dump(), **params}, ti=ti)
    return result, ti.xcom_push.call_args.args


def test_what_passes_is_promoted_and_announced(dag, home):
    version = promotion.register(str(stage(home / "staged")))
    passed, (key, verdict) = judge(dag, version)
    assert (passed, key, verdict["passed"]) == (version, "verdict", True)
    [event] = dag.get_task("promote").python_callable(passed)
    assert event.asset == asset(AssetName.MODEL)
    assert event.extra["version"] == registry.read_pointer(home / "models").champion == version


def test_what_does_not_pass_is_skipped_with_the_reason(dag, home):
    version = promotion.register(str(stage(home / "staged", baselines={"commonest_bucket": WORSE, "other": WORSE})))
    registry.promote(home / "models", version)
    worse = promotion.register(str(stage(home / "worse", day=2, comparison=beside(version, ours=WORSE))))
    ti = Mock()
    with pytest.raises(AirflowSkipException, match=rf"{worse} is not promoted: log-loss 1.2000 is worse than"):
        dag.get_task("judge").python_callable(worse, params=dag.params.dump(), ti=ti)
    assert ti.xcom_push.call_args.args[1]["reasons"]
    assert dag.get_task("promote").trigger_rule == "all_success", "so it is skipped, too"
    assert registry.read_pointer(home / "models").champion == version
    assert judge(dag, worse, force=True)[0] == worse


@pytest.fixture
def with_approval(monkeypatch):
    monkeypatch.setenv("FLIGHTS_REQUIRE_APPROVAL", "true")
    monkeypatch.setenv("FLIGHTS_APPROVAL_HOURS", "2")
    get_settings.cache_clear()
    bag = DagBag(PROJECT / "dags" / f"{DagId.TRAINING}.py")
    get_settings.cache_clear()
    assert bag.import_errors == {}
    return bag.dags[DagId.TRAINING]


def test_a_person_may_stand_in_between(dag, with_approval):
    assert "approve" not in dag.task_dict
    approve = with_approval.get_task("approve")
    assert approve.upstream_task_ids == {"judge"}
    assert with_approval.get_task("promote").upstream_task_ids == {"judge", "approve"}
    assert approve.defaults == [approve.REJECT], "no answer is a no"
    assert approve.response_timeout == dt.timedelta(hours=2)
    assert with_approval.dagrun_timeout == dag.dagrun_timeout + dt.timedelta(hours=2)


def test_the_question_shows_the_verdict(with_approval):
    ti = Mock()
    ti.xcom_pull = lambda task, key="return_value": {"passed": True} if key == "verdict" else "the version"
    approve = with_approval.get_task("approve")
    environment = with_approval.get_template_env()
    assert approve.render_template(approve.subject, {"ti": ti}, environment) == "Shall model the version serve?"
    assert '{"passed": true}' in approve.render_template(approve.body, {"ti": ti}, environment)


@pytest.fixture(scope="module")
def rollback():
    bag = DagBag(PROJECT / "dags" / f"{DagId.ROLLBACK}.py")
    assert bag.import_errors == {}
    return bag.dags[DagId.ROLLBACK]


def test_a_rollback_moves_the_pointer_and_announces_the_model(rollback, home):
    first, second = (promotion.register(str(stage(home / str(day), day=day))) for day in (1, 2))
    for version in (first, second):
        registry.promote(home / "models", version)
    task = rollback.get_task("roll_back")
    [event] = task.python_callable(params=rollback.params.dump())
    assert task.outlets == [event.asset] == [asset(AssetName.MODEL)]
    assert event.extra["version"] == registry.read_pointer(home / "models").champion == first
