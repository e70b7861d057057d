"""Canaries reach the partition that their key's hash leads to."""

from __future__ import annotations

import pytest

from flight_delays.infra.kafka import partition_of
from flight_delays.predictor.canary import canary_ids


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_one_canary_for_each_partition(partitions: int) -> None:
    uuids = canary_ids(partitions)
    assert [partition_of(uuid, partitions) for uuid in uuids] == list(range(partitions))
