"""The promotion checks: one reason for each thing that is wrong, none where all is well."""

import math
import re

import pytest

from flight_delays.model import promotion_checks
from flight_delays.model.registry import Comparison
from tests.versions import SCORES, WORSE, beside, metadata, sane

GOLDEN = promotion_checks.golden_requests()


def judge(champion=None, *, limit=0.03, force=False, **changes):
    return promotion_checks.judge("new", metadata(**changes), champion, limit=limit, force=force)


def test_a_good_first_model_passes():
    verdict = judge()
    assert (verdict.passed, verdict.reasons, verdict.forced, verdict.champion) == (True, (), False, None)


@pytest.mark.parametrize("theirs", [SCORES, WORSE])
def test_as_good_as_the_champion_is_good_enough(theirs):
    assert judge("old", comparison=beside("old", theirs=theirs)).passed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"comparison": beside("old", ours=WORSE)}, "log-loss 1.2000 is worse than the 1.0000 of the champion old"),
        ({"comparison": beside("old", ours=WORSE, seen=True)}, "old on the same 50 flights, which has learned from"),
        ({"comparison": beside("older")}, "not compared with the champion old"),
        ({"comparison": None}, "not compared with the champion old"),
        ({"baselines": {"first": WORSE, "second": SCORES}}, r"does not beat the baseline second \(1.0000\)"),
        ({"metrics": SCORES.model_copy(update={"log_loss": math.nan})}, "log-loss nan does not beat the baseline"),
        ({"metrics": SCORES.model_copy(update={"calibration_error": 0.0301})}, "0.0301 is above the limit of 0.03"),
        ({"metrics": SCORES.model_copy(update={"calibration_error": math.nan})}, "calibration error nan is above"),
        ({"golden": {}}, "got no probabilities"),
    ],
)
def test_what_is_wrong_is_said(changes, reason):
    verdict = judge("old", **{"comparison": beside("old"), **changes})
    assert not verdict.passed
    assert len(verdict.reasons) == (len(GOLDEN) if "golden" in changes else 1)
    assert re.search(reason, verdict.reasons[0])


@pytest.mark.parametrize("each", GOLDEN, ids=lambda each: each.name)
@pytest.mark.parametrize("bucket", range(4))
def test_a_golden_request_is_answered_with_sense(each, bucket):
    golden = metadata().golden | {each.name: sane((bucket,))}
    assert judge(golden=golden).passed == (bucket in each.most_likely)


@pytest.mark.parametrize("answer", [(0.4, 0.4, 0.4, 0.4), (math.nan,) * 4, (1.0,), (-0.1, 0.1, 0.1, 0.9)])
def test_a_golden_request_gets_probabilities(answer):
    verdict = judge(golden=metadata().golden | {"three hours late": answer})
    assert [reason[:52] for reason in verdict.reasons] == ["golden request 'three hours late' got no probabiliti"]


def test_golden_requests_ask_what_a_person_can_tell():
    answers = {each.request["DepDelay"]: each.most_likely for each in GOLDEN}
    assert answers[180.0] == (3,)
    assert 3 not in answers[-20.0]
    assert len({each.name for each in GOLDEN}) == len(GOLDEN)


def test_a_champion_that_cannot_be_asked_gives_way():
    assert judge("old", comparison=Comparison(version="old", error="damaged")).passed


def test_force_overrules_and_keeps_the_reasons():
    verdict = judge("old", comparison=beside("old", ours=WORSE), force=True)
    assert (verdict.passed, verdict.forced, len(verdict.reasons)) == (True, True, 1)
    assert not judge(force=True).forced
