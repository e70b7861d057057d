"""Reports rejected requests, and replays chosen ones; flight_delay_dead_letters.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag, task

from flight_delays_airflow import flight_delay_dead_letters as tasks
from flight_delays_airflow.names import Tag, dag_args


@dag(
    dag_display_name="09 Dead letters",
    description="Reports which requests were rejected and why; replays chosen ones after a fix",
    schedule=None,
    is_paused_upon_creation=False,  # only by hand, and then at once
    dagrun_timeout=dt.timedelta(hours=2),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.PREDICTOR, Tag.DEAD_LETTERS),
)
def flight_delay_dead_letters() -> None:
    task(tasks.report)() >> task.short_circuit(tasks.replay_is_set)() >> task(tasks.replay)()


flight_delay_dead_letters()
