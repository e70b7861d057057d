"""Where a query goes on after another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.predictor.handover import clamp_offsets, committed, first_unanswered


def written(checkpoint: Path, name: str, offsets: object) -> None:
    file = checkpoint / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"v1\n{json.dumps({REQUEST_TOPIC: offsets})}")


@pytest.mark.parametrize(
    ("answered", "behind"),
    [
        (set(), {0: 10, 1: 20}),
        ({(0, 10), (0, 11), (1, 20)}, {0: 12, 1: 21}),
        ({(0, 11), (0, 12), (1, 20), (1, 22)}, {0: 10, 1: 21}),  # 10 and 21 are still to be answered
        ({(0, 9), (2, 20)}, {0: 10, 1: 20}),
    ],
)
def test_goes_on_at_the_first_request_without_an_answer(answered: set[tuple[int, int]], behind: dict[int, int]) -> None:
    assert first_unanswered({0: 10, 1: 20}, answered) == behind


@pytest.mark.parametrize(
    ("bounds", "clamped"),
    [
        ([(0, 10), (20, 25)], {0: 10, 1: 20}),
        ([(0, 10), (0, 25), (0, 3)], {0: 10, 1: 20, 2: 0}),  # the topic has grown
        ([(3, 9), (0, 25)], {0: 3, 1: 20}),  # it was made anew
        ([(0, 10), (21, 25)], {0: 10, 1: 21}),  # it no longer keeps what was not answered
        ([(0, 10)], {0: 10}),
    ],
)
def test_spark_gets_an_offset_for_each_partition(bounds: list[tuple[int, int]], clamped: dict[int, int]) -> None:
    assert clamp_offsets({0: 10, 1: 20}, dict(enumerate(bounds))) == clamped


def test_the_last_batch_that_was_committed_counts(tmp_path: Path) -> None:
    assert committed(tmp_path) is None
    written(tmp_path, "sources/0/0", {"0": 1, "1": 2})
    assert (committed(tmp_path) or [None])[0] == {0: 1, 1: 2}
    for batch in (8, 9, 10, 11):
        written(tmp_path, f"offsets/{batch}", {"0": batch, "1": batch})
    for batch in (8, 9, 10):
        written(tmp_path, f"commits/{batch}", {})
    assert (committed(tmp_path) or [None])[0] == {0: 10, 1: 10}


@pytest.mark.parametrize("damage", ["", "v1\n{", "v1\n[]", "v1\nnull", 'v1\n{"other": {"0": 1}}'])
def test_a_damaged_batch_counts_as_absent(damage: str, tmp_path: Path) -> None:
    for batch in (1, 2):
        written(tmp_path, f"offsets/{batch}", {"0": batch})
        written(tmp_path, f"commits/{batch}", {})
    (tmp_path / "offsets" / "2").write_text(damage)
    assert (committed(tmp_path) or [None])[0] == {0: 1}
    (tmp_path / "offsets" / "1").write_text(damage)
    assert committed(tmp_path) is None
