"""Canaries reach the partition that their key's hash leads to, and only the right deployment's answer counts."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from flight_delays.canary import all_answered, canary_ids, canary_messages, partition_of
from flight_delays.contract import Request


@dataclass
class Record:
    """What the sensor hands over, of Kafka's own message only what is read."""

    uuid: str
    deployment: int | None

    def value(self) -> bytes:
        return json.dumps({"UUID": self.uuid, "Deployment": self.deployment, "RequestPartition": 0}).encode()

    def error(self) -> None:
        return None


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_one_canary_for_each_partition(partitions: int) -> None:
    uuids = canary_ids(partitions)
    assert [partition_of(uuid, partitions) for uuid in uuids] == list(range(partitions))


def test_a_canary_is_a_valid_request() -> None:
    [(key, value)] = list(canary_messages(canary_ids(1)))
    request = Request.model_validate_json(value)
    assert key == request.UUID
    assert request.Canary is True
    assert (request.DayOfYear, request.DayOfMonth, request.DayOfWeek) == (354, 20, 5)  # 2013-12-20 was a Friday


def test_all_canaries_must_be_answered_by_the_deployment() -> None:
    waiting = ["a", "b"]
    assert all_answered(Record("a", 3), waiting, 4) is None  # the predecessor's answer
    assert all_answered(Record("x", 4), waiting, 4) is None
    assert all_answered(Record("a", 4), waiting, 4) is None
    assert all_answered(Record("a", 4), waiting, 4) is None  # answered twice: at least once is promised
    assert all_answered(Record("b", 4), waiting, 4)
