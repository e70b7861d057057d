"""The training DAG: when it runs, what it accepts, and what it tells the Spark job."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pendulum
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction

from flight_delays import records, training
from flight_delays.names import OWNER, SPARK_CONNECTION, AssetName, DagId, asset
from flight_delays.settings import PROJECT, get_settings
from flight_delays.sources import DataError
from flight_delays.sources.nycflights13 import NycFlights13
from spark_jobs.train_model import parse


@pytest.fixture(scope="module")
def dag():
    bag = DagBag(PROJECT / "dags" / f"{DagId.TRAINING}.py")
    assert bag.import_errors == {}
    return bag.dags[DagId.TRAINING]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLIGHTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def test_the_pointer_comes_last(dag):
    order = [task.task_id for task in dag.topological_sort()]
    assert order == ["prepare", "train", "register", "promote"]
    assert dag.get_task("promote").outlets == [asset(AssetName.MODEL)]
    assert not any(dag.get_task(name).outlets for name in order[:-1])
    assert {task.owner for task in dag.tasks} == {OWNER}
    assert (dag.max_active_runs, dag.catchup) == (1, False)


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


def test_new_records_start_it_once_their_context_is_there(dag):
    timetable = decode_timetable(encode_timetable(dag.timetable))
    assert [key.name for key, _ in timetable.asset_condition.iter_assets()] == [AssetName.CONTEXT]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("trees", 0), ("trees", 501), ("depth", 21), ("depth", "5"), ("holdout_months", 0), ("seed", -1)],
)
def test_the_form_refuses_what_makes_no_sense(dag, name, wrong):
    param = dag.params.get_param(name)
    assert param.description
    assert param.resolve() == param.value
    with pytest.raises(ParamValidationError):
        param.resolve(wrong)


def test_no_records_is_said_at_once(dag, home):
    with pytest.raises(DataError, match=r"no flight records in .*: run the DAG flight_records first"):
        training.prepare(dag.params.dump(), "manual__1")


def test_the_job_understands_its_arguments(dag, home):
    manifest = records.import_records(NycFlights13(), months="2013-01..2013-02")
    with pytest.raises(DataError, match=r"2 month\(s\) \(2013-01, 2013-02\), too few to hold out 2"):
        training.prepare(dag.params.dump(), "manual__1")
    params = {**dag.params.dump(), "holdout_months": 1, "trees": 7}
    prepare = dag.get_task("prepare").python_callable
    prepared = prepare(params=params, run_id="manual__2026-01-05T04:00:00+00:00")
    assert parse(prepared["arguments"]) == {
        "records": records.month_files(),
        "output": Path(prepared["staged"]),
        "fingerprint": manifest.fingerprint,
        "trees": 7,
        "depth": 5,
        "seed": 42,
        "holdout_months": 1,
    }
    assert home / "models" in Path(prepared["staged"]).parents
    (Path(prepared["staged"]) / "half").touch()
    assert prepare(params=params, run_id="manual__2026-01-05T04:00:00+00:00") == prepared, "a retry"
    assert list(Path(prepared["staged"]).iterdir()) == []
    assert dag.get_task("train").execution_timeout <= dt.timedelta(hours=3)
