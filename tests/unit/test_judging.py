"""From a trained folder to the pointer and back, as the DAGs' tasks do it, on a real registry."""

import json
from types import SimpleNamespace

import pytest

from flight_delays.errors import DataError, RegistryError
from flight_delays.model import promotion, registry
from flight_delays.settings import get_settings
from stack import console
from stack.steps import StepFailedError
from stack.up import _deploy_unfit
from tests.versions import SCORES, UNREADABLE, WORSE, beside, stage

NO, FORCE = {"force": False}, {"force": True}
BACK = {"version": promotion.PREVIOUS}


@pytest.fixture
def models(home):
    return home / "models"


@pytest.fixture
def new(models, tmp_path):
    """Registers a version, with changed metadata."""
    return lambda day, **changes: promotion.register(str(stage(tmp_path / f"staged-{day}", day=day, **changes)))


@pytest.fixture
def champion(new):
    version = new(1)
    promotion.judge(version, NO)
    promotion.promote(version)
    return version


def history(models, version):
    return [line.split(" UTC: ")[1] for line in registry.read_verdict(models, version).history]


def test_a_better_model_becomes_champion(models, champion, new):
    version = new(2, comparison=beside(champion))
    verdict = promotion.judge(version, NO)
    assert json.loads(json.dumps(verdict)) == verdict
    assert verdict["passed"]
    assert registry.read_pointer(models).champion == champion, "judging alone moves nothing"
    event = promotion.promote(version)
    assert event == {"version": version, **SCORES.model_dump()}
    assert json.loads(json.dumps(event)) == event
    pointer = registry.read_pointer(models)
    assert (pointer.champion, pointer.previous) == (version, champion)
    assert history(models, version) == ["promoted by the training DAG"]
    assert history(models, champion)[-1] == f"replaced by {version}, promoted by the training DAG"


def test_a_worse_model_never_touches_what_serves(models, champion, new):
    before = (models / registry.POINTER).read_bytes()
    version = new(2, comparison=beside(champion, ours=WORSE))
    assert not promotion.judge(version, NO)["passed"]
    with pytest.raises(RegistryError, match="did not pass"):
        promotion.promote(version)
    assert (models / registry.POINTER).read_bytes() == before
    registry.verify(models, version)  # the verdict lies outside of what is immutable
    assert promotion.judge(version, FORCE)["forced"]
    promotion.promote(version)
    assert registry.read_pointer(models).champion == version


def test_a_version_that_nobody_judged_is_not_promoted(models, new):
    with pytest.raises(RegistryError, match="judge it first"):
        promotion.promote(new(1))
    assert registry.read_pointer(models).champion is None


def test_the_limit_is_a_setting(models, new, monkeypatch):
    monkeypatch.setenv("FLIGHTS_MAX_CALIBRATION_ERROR", "0.01")
    get_settings.cache_clear()
    [reason] = promotion.judge(new(1), NO)["reasons"]
    assert reason == "calibration error 0.0200 is above the limit of 0.01"


def test_a_champion_that_came_while_a_person_thought_stays(models, champion, new):
    late, quick = (new(day, comparison=beside(champion)) for day in (2, 3))
    promotion.judge(late, NO)
    promotion.judge(quick, NO)
    promotion.promote(quick)
    with pytest.raises(RegistryError, match=f"judged beside {champion}, but {quick} serves: train again"):
        promotion.promote(late)
    assert registry.read_pointer(models).champion == quick


def test_tasks_that_run_again_change_nothing(models, champion):
    before = (models / registry.POINTER).read_bytes(), registry.read_verdict(models, champion)
    assert promotion.judge(champion, NO)["passed"]
    assert promotion.promote(champion)["version"] == champion
    assert ((models / registry.POINTER).read_bytes(), registry.read_verdict(models, champion)) == before


def test_back_and_forth_and_to_a_named_version(models, champion, new):
    second = new(2, comparison=beside(champion))
    promotion.judge(second, NO)
    promotion.promote(second)
    assert promotion.roll_back(BACK)["version"] == champion
    assert registry.read_pointer(models).previous == second
    assert history(models, champion)[-1] == "rolled back to, by hand"
    assert history(models, second)[-1] == f"replaced by {champion}, rolled back to, by hand"
    assert promotion.roll_back(BACK)["version"] == second
    third = new(3)
    assert promotion.roll_back({"version": f" {third} "})["version"] == third
    assert registry.read_pointer(models).champion == third
    assert registry.read_verdict(models, third).history[0] == "never judged"


def test_where_there_is_no_way_back_it_says_so(models, champion, new):
    with pytest.raises(DataError, match="no previous model"):
        promotion.roll_back(BACK)
    with pytest.raises(DataError, match=rf"is missing in .* \(there are: {champion}\)"):
        promotion.roll_back({"version": "20200101T000000Z-00000000"})
    broken = new(2)
    (models / broken / "extra").touch()
    with pytest.raises(DataError, match="is damaged"):
        promotion.roll_back({"version": broken})
    assert registry.read_pointer(models).champion == champion


def test_make_models_tells_why(models, champion, new, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    worse = new(2, comparison=beside(champion, ours=WORSE))
    forced = new(3, comparison=beside(champion, ours=WORSE))
    waiting = new(4, comparison=beside(champion))
    unjudged = new(5)
    for version, params in [(worse, NO), (forced, FORCE), (waiting, NO)]:
        promotion.judge(version, params)
    promotion.promote(forced)
    console.models(get_settings())
    lines: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith(" "):
            version, text = lines.popitem()
            lines[version] = f"{text} {line.strip()}"
        else:
            lines[line.strip()] = ""
    assert list(lines) == [unjudged, waiting, forced, worse, champion], "newest first"
    assert "no; never judged" in lines[unjudged]
    assert "no; passed, but not promoted" in lines[waiting]
    assert "yes, the champion; " in lines[forced]
    assert "forced, though log-loss 1.2000 is worse" in lines[forced]
    assert "no; unfit: log-loss 1.2000 is worse than the 1.0000" in lines[worse]
    assert "no, the previous one; " in lines[champion]
    assert f"replaced by {forced}" in lines[champion]
    assert "2026-01-04 03:00" in lines[waiting]
    assert all(figure in lines[waiting] for figure in ("0.500", "1.000", "0.020"))


@pytest.mark.parametrize("kind", UNREADABLE)
def test_make_models_shows_the_versions_where_the_pointer_or_one_of_them_is_unreadable(models, new, capsys, kind):
    good, bad = new(1), new(2)
    (models / bad / registry.METADATA).unlink()
    UNREADABLE[kind](models / bad / registry.METADATA)
    UNREADABLE[kind](models / registry.POINTER)
    with pytest.raises(StepFailedError, match=r"pointer\.json is damaged"):
        console.models(get_settings())
    shown = capsys.readouterr().out
    assert good in shown
    assert f"{bad}\n  serves: no: " in shown


@pytest.mark.parametrize(("months", "holds"), [("2013-10..2013-12", True), (None, False)])
def test_make_up_deploys_an_unfit_first_model_only_of_months_that_a_person_chose(models, new, months, holds):
    version = new(1, metrics=SCORES.model_copy(update={"calibration_error": 0.04}))
    promotion.judge(version, NO)
    asked = []
    api = SimpleNamespace(trigger=lambda dag, conf: asked.append(conf) or "run")
    if not holds:
        with pytest.raises(StepFailedError, match="not promoted"):
            _deploy_unfit(get_settings(), api, months)
        return
    assert (
        _deploy_unfit(get_settings(), api, months) == ", although calibration error 0.0400 is above the limit of 0.03"
    )
    assert asked == [{"action": "deploy", "version": version}]


def test_make_up_never_deploys_what_a_person_did_not_approve(models, new):
    promotion.judge(new(1), NO)
    with pytest.raises(StepFailedError, match="not promoted"):
        _deploy_unfit(get_settings(), SimpleNamespace(), "2013-10..2013-12")
