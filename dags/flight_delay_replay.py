"""Sends the flights of a past period again and scores the answers; flight_delay_replay.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag, task

from flight_delays_airflow import flight_delay_replay as tasks
from flight_delays_airflow.names import Tag, dag_args
from flight_delays_airflow.plugin import ScoreboardLink


@dag(
    dag_display_name="10 Replay",
    description="Sends the flights of a past period through the pipeline again and scores the predictions",
    schedule=None,
    is_paused_upon_creation=False,  # only by hand, and then at once
    dagrun_timeout=dt.timedelta(days=2),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.PREDICTOR, Tag.QUALITY, execution_timeout=dt.timedelta(days=1)),
)
def flight_delay_replay() -> None:
    replay = task(tasks.replay)()
    replay.operator.operator_extra_links = [ScoreboardLink()]


flight_delay_replay()
