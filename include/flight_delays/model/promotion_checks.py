"""The promotion checks: what a new version must show on its holdout before it may serve."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Final

from pydantic import BaseModel, TypeAdapter

from flight_delays.contract import BUCKETS
from flight_delays.model.registry import Metadata, Verdict

GOLDEN: Final = Path(__file__).parent / "reference" / "golden_requests.json"


class GoldenRequest(BaseModel, frozen=True):
    """A flight whose answer a person can tell: the buckets of which one must be the most likely."""

    name: str
    request: dict[str, str | float]
    most_likely: tuple[int, ...]


def golden_requests() -> list[GoldenRequest]:
    """The golden requests of this release."""
    return TypeAdapter(list[GoldenRequest]).validate_json(GOLDEN.read_bytes())


def judge(version: str, metadata: Metadata, champion: str | None, *, limit: float, force: bool) -> Verdict:
    """Whether the version may become the champion, and every reason against it.

    `limit` is the highest calibration error, `champion` whom the pointer names now, None for nobody.
    """
    reasons = [*_beside_baselines(metadata), *_beside_champion(metadata, champion), *_golden(metadata)]
    if not metadata.metrics.calibration_error <= limit:
        reasons.append(f"calibration error {metadata.metrics.calibration_error:.4f} is above the limit of {limit:g}")
    return Verdict(
        version=version,
        judged_at=dt.datetime.now(dt.UTC),
        passed=force or not reasons,
        reasons=tuple(reasons),
        champion=champion,
        forced=force and bool(reasons),
    )


def _beside_baselines(metadata: Metadata) -> list[str]:
    ours = metadata.metrics.log_loss
    return [
        f"log-loss {ours:.4f} does not beat the baseline {name} ({scores.log_loss:.4f})"
        for name, scores in metadata.baselines.items()
        if not ours < scores.log_loss  # so that NaN fails too
    ]


def _beside_champion(metadata: Metadata, champion: str | None) -> list[str]:
    found = metadata.comparison
    if champion is None or (found and found.version == champion and found.error):
        return []  # nobody serves, or one that cannot be asked
    if found is None or found.version != champion or found.champion is None or found.challenger is None:
        return [f"it was not compared with the champion {champion}, which came while it was trained: train again"]
    if not found.challenger.log_loss <= found.champion.log_loss + 1e-9:
        seen = ", which has learned from these flights" if found.seen else ""
        return [
            f"log-loss {found.challenger.log_loss:.4f} is worse than the {found.champion.log_loss:.4f} of the champion "
            f"{champion} on the same {found.champion.rows:,} flights{seen}"
        ]
    return []


def _golden(metadata: Metadata) -> list[str]:
    reasons = []
    for each in golden_requests():
        answer = metadata.golden.get(each.name, ())
        if len(answer) != len(BUCKETS) or not math.isclose(sum(answer), 1, abs_tol=1e-6) or min(answer) < 0:
            reasons.append(f"golden request '{each.name}' got no probabilities but {list(answer)}")
        elif (most_likely := answer.index(max(answer))) not in each.most_likely:
            reasons.append(f"golden request '{each.name}' got {BUCKETS[most_likely].label}, which cannot be")
    return reasons
