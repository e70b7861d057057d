"""Task of the DAG flight_records_newest_month."""

from __future__ import annotations

import datetime as dt

from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.data import records


def missing() -> str:
    """The months of the Bureau's to fetch, as a range. Raises AirflowSkipException where there is none."""
    months = records.months_since(dt.datetime.now(dt.UTC).date())
    if not months:
        raise AirflowSkipException("no month of the Bureau's is published here, or none has ended since the last")
    return months
