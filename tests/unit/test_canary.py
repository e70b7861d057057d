"""Canaries reach the partition that their key's hash leads to."""

from __future__ import annotations

import pytest

from flight_delays.contract import Request
from flight_delays.infra.kafka import partition_of
from flight_delays.predictor.canary import canary_ids, canary_messages


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
