"""Sends the flights of a past period again and scores the answers; flight_delay_replay.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import dag, task

from flight_delays_airflow import flight_delay_replay as tasks
from flight_delays_airflow.names import Tag, default_args
from flight_delays_airflow.plugin import ScoreboardLink


@dag(
    dag_display_name="10 Replay",
    description="Sends the flights of a past period through the pipeline again and scores the predictions",
    schedule=None,
    is_paused_upon_creation=False,  # only by hand, and then at once
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(days=2),
    default_args=default_args(execution_timeout=dt.timedelta(days=1)),
    params=tasks.PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.QUALITY.value],
)
def flight_delay_replay() -> None:
    replay = task(tasks.replay)()
    replay.operator.operator_extra_links = [ScoreboardLink()]


flight_delay_replay()
