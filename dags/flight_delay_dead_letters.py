"""Reports rejected requests, and replays chosen ones; flight_delay_dead_letters.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import dag, task

from flight_delays_airflow import flight_delay_dead_letters as tasks
from flight_delays_airflow.names import Tag, default_args


@dag(
    dag_display_name="09 Dead letters",
    description="Reports which requests were rejected and why; replays chosen ones after a fix",
    schedule=None,
    is_paused_upon_creation=False,  # only by hand, and then at once
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=2),
    default_args=default_args(),
    params=tasks.PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.DEAD_LETTERS.value],
)
def flight_delay_dead_letters() -> None:
    task(tasks.report)() >> task.short_circuit(tasks.replay_is_set)() >> task(tasks.replay)()


flight_delay_dead_letters()
