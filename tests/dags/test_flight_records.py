"""The data DAGs: how they are wired, and what their tasks do when they are called."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.sdk import DAG
from airflow.sdk.bases.decorator import DecoratedMappedOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.utils.session import create_session
from sqlalchemy import select

from bench.bts import write_month
from flight_delays.data import records
from flight_delays.data.records import month_files, read_manifest
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.errors import DataError
from flight_delays.settings import PROJECT, get_settings
from flight_delays_airflow.names import AssetName, asset
from tests.flights import import_records
from tests.unit.test_quality import of_carriers

RECORDS = asset(AssetName.RECORDS)
CONF = {"months": "2013-01"}


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag(PROJECT / "dags" / "flight_records.py")
    names = ["flight_records", "flight_records_newest_month", "origin_dest_distances"]
    for name in names[1:]:
        bag.process_file(str(PROJECT / "dags" / f"{name}.py"))
    assert bag.import_errors == {}
    assert sorted(bag.dags) == names
    return dict(bag.dags)


def call(dag: DAG, task_id: str, *args: Any, **context: Any) -> Any:
    """Calls a task's function as Airflow would; `conf` is what the trigger form sends."""
    if "conf" in context:
        context["params"] = {**dag.params.dump(), **context.pop("conf")}
    return dag.task_dict[task_id].python_callable(*args, **context)


def announce(dag: DAG, summary: dict[str, Any], before: list[dict[str, Any]], **conf: Any) -> list[Any]:
    events = {RECORDS: [SimpleNamespace(extra=extra) for extra in before]}
    return list(call(dag, "announce", summary, conf=conf, inlet_events=events))


def test_from_download_to_announcement(dags: dict[str, DAG], home: Path) -> None:
    dag = dags["flight_records"]
    (file,) = call(dag, "plan", conf=CONF)
    staging = call(dag, "validate", call(dag, "download", file))
    report = call(dag, "check", [staging], conf=CONF)
    assert read_manifest() is None
    summary = call(dag, "publish", [staging], report)
    assert [file.parent.parent for file in month_files()] == [home / "data" / "flight_records"]

    (event,) = announce(dag, summary, before=[])
    assert event.asset == RECORDS
    assert json.loads(json.dumps(event.extra)) == {
        "source": "nycflights13",
        "rows": 26_398,
        "cancelled": 521,
        "diverted": 85,
        "rejected": {},
        "first_date": "2013-01-01",
        "last_date": "2013-01-31",
        "fingerprint": read_manifest().fingerprint,  # type: ignore[union-attr]
        "quality": report,
    }
    assert [(month["month"], month["rows"], month["failed"]) for month in report] == [("2013-01", 26_398, [])]
    with pytest.raises(AirflowSkipException, match="announced before"):
        announce(dag, summary, before=[{"fingerprint": "older"}, event.extra])
    assert len(announce(dag, summary, before=[event.extra, {"fingerprint": "newer"}])) == 1
    assert len(announce(dag, summary, before=[event.extra], announce_unchanged=True)) == 1


def test_the_archives_url_may_be_a_path(dags: dict[str, DAG], home: Path) -> None:
    conf = {"source": "archive", "url": str(home / "absent.jsonl.bz2")}
    with pytest.raises(DataError, match="absent"):
        call(dags["flight_records"], "download", {**conf, "months": None})


def test_only_the_archive_takes_a_url(dags: dict[str, DAG], home: Path) -> None:
    dag, url = dags["flight_records"], "https://example.com/flights.jsonl"
    assert dag.params["url"] is None, "no form asks for it"
    for source in ("nycflights13", "bts"):
        with pytest.raises(DataError, match="url: only source archive takes it"):
            call(dag, "plan", conf={"source": source, "url": url, "months": "2013-01"})
    (file,) = call(dag, "plan", conf={"source": "archive", "url": url})
    assert file["url"] == url


def test_a_young_month_is_skipped_and_nothing_new_changes_nothing(dags: dict[str, DAG], home: Path) -> None:
    dag, conf = dags["flight_records"], {"source": "bts", "months": f"{dt.datetime.now(dt.UTC):%Y-%m}"}
    (file,) = call(dag, "plan", conf=conf)
    with pytest.raises(AirflowSkipException, match="not published yet"):
        call(dag, "download", {**file, "bts_url": str(home / "{year}_{month}.zip")})
    with pytest.raises(DataError, match="none is published"):
        call(dag, "publish", None, call(dag, "check", None, conf=conf))
    import_records(NycFlights13(), months="2013-01")
    assert call(dag, "publish", None, [])["fingerprint"] == read_manifest().fingerprint  # type: ignore[union-attr]


def test_months_are_fetched_side_by_side_but_few(dags: dict[str, DAG]) -> None:
    dag = dags["flight_records"]
    for name in ("download", "validate"):
        assert isinstance(dag.task_dict[name], DecoratedMappedOperator)
        assert dag.task_dict[name].partial_kwargs["max_active_tis_per_dag"] == 2
    for name in ("validate", "check", "publish"):  # a month that is skipped does not skip the others
        assert dag.task_dict[name].trigger_rule == "none_failed"


@pytest.mark.usefixtures("airflow_database")
def test_a_run_that_holds_a_month_back_fails_but_publishes_and_announces_the_others(
    dags: dict[str, DAG], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow runs the whole DAG; then again, with the month accepted."""
    monkeypatch.setenv("FLIGHTS_BTS_URL", str(home / "{year}-{month:02}.zip"))
    get_settings.cache_clear()
    for month, carriers in {"2017-12": 1, "2018-01": 4, "2018-02": 4}.items():
        write_month(home / f"{month}.zip", of_carriers(month, carriers))
    conf = {"source": "bts", "months": "2017-12..2018-02"}

    run = dags["flight_records"].test(run_conf=conf)
    assert (run.state, states(run)) == ("failed", {"announce": "success", "held_back": "failed"})
    assert records.months_there("bts") == ["2017-12", "2018-02"]
    [event] = events(run)
    assert [(each["month"], each["held_back"]) for each in event["quality"]] == [
        ("2017-12", False),
        ("2018-01", True),
        ("2018-02", False),
    ]

    run = dags["flight_records"].test(run_conf=conf | {"accept_bad_months": ["2018-01"]})
    assert (run.state, states(run)) == ("success", {"announce": "success", "held_back": "success"})
    assert records.months_there("bts") == ["2017-12", "2018-01", "2018-02"]
    assert [event["rows"] for event in events(run)] == [1200]


def states(run: Any) -> dict[str, str]:
    return {each.task_id: each.state for each in run.get_task_instances() if each.task_id in ("announce", "held_back")}


def events(run: Any) -> list[dict[str, Any]]:
    with create_session() as session:
        return list(session.scalars(select(AssetEvent.extra).where(AssetEvent.source_run_id == run.run_id)))


def test_the_newest_months_are_asked_for_where_the_bureaus_are_there(
    dags: dict[str, DAG], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = dags["flight_records_newest_month"]
    import_records(NycFlights13(), months="2013-01")
    with pytest.raises(AirflowSkipException, match="no month of the Bureau's"):
        call(dag, "missing")
    monkeypatch.setattr(records, "months_there", lambda *_: ["2013-01"])
    assert re.fullmatch(r"2013-02\.\.\d{4}-\d\d", call(dag, "missing"))
    fetch = dag.task_dict["fetch"]
    assert (fetch.trigger_dag_id, fetch.conf["source"]) == ("flight_records", "bts")
    assert fetch.upstream_task_ids == {"missing"}


def test_distances_take_the_projects_file_by_default(dags: dict[str, DAG], home: Path) -> None:
    dag = dags["origin_dest_distances"]
    assert Path(call(dag, "download", conf={})).name == "origin_dest_distances.jsonl"
    (home / "pairs.jsonl").write_text("broken\n")
    path = call(dag, "download", conf={"path_or_url": (home / "pairs.jsonl").as_uri()})
    with pytest.raises(DataError, match="line 1"):
        list(call(dag, "import_pairs", path))


def test_announced_is_what_is_published(dags: dict[str, DAG]) -> None:
    flights = dags["flight_records"]
    assert [task.task_id for task in flights.topological_sort()] == [
        "plan",
        "download",
        "validate",
        "check",
        "publish",
        "announce",
        "held_back",
    ]
    assert flights.task_dict["announce"].outlets == [RECORDS]
