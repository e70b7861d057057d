"""The predictor's timeouts, in seconds, which depend on each other: from a canary to the alarm to the repair."""

from __future__ import annotations

from typing import Final

CANARY_SECONDS: Final = 15.0
"""Of a canary of the watch; each answer meanwhile prolongs it. Usually a canary takes 20 ms."""
PROBE_QUERY_SECONDS: Final = 3.0
"""Between two probes of the query while its canaries are awaited."""
IN_PROGRESS_SECONDS: Final = 60.0
"""A change that is in progress for longer, or a promotion without a run, belongs to a run that was killed."""
FIRST_PAUSE_SECONDS: Final = 20.0
"""From one alarm to the next while a part stays unhealthy: a repair takes that long. Doubled each time."""
LONGEST_PAUSE_SECONDS: Final = 600.0
SERVER_SECONDS: Final = 60.0
"""Until the Spark Connect server answers: the process manager restarts a killed one in 8 s or so."""
SLOTS_SECONDS: Final = 30.0
"""Until the executors of a cluster offer the task slots of a query."""
READ_ANSWERS_SECONDS: Final = 10.0
"""For reading answers before a handover; what is not known by then is answered again."""
ON_DISK_SECONDS: Final = 3.0
"""Age at which an answer counts: by then Kafka has it on disk (`log.flush.interval.ms`)."""
CLOCK_SKEW_SECONDS: Final = 10.0
"""Accepted between the clocks of the checkpoint's folder, Spark and the clients; beyond it, requests are answered
again."""
STATUS_SECONDS: Final = 2.5
"""Of Kafka, and of MongoDB, when the status is read."""
SILENT_SECONDS: Final = 60.0
"""A request that waits for longer is one that the predictor does not answer."""
