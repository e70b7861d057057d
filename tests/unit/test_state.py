"""The state's format, what does not fit it, and what a running stack was started with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.settings import Settings
from stack import state
from stack.secrets import Secrets
from stack.services import services
from stack.steps import StepFailedError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port_offset=5_500)


def written(settings: Settings) -> dict[str, object]:
    content: dict[str, object] = json.loads((settings.home / "state.json").read_text())
    return content


def test_a_new_home_gets_the_present_format(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIGRATIONS", (lambda _: pytest.fail("nothing to migrate"),))
    assert state.migrate(settings) == "new"
    assert written(settings) == {"format": 2, "release": state.release()}
    services(settings, Secrets())  # makes folders
    assert state.migrate(settings) == "as it was"


def test_an_older_state_is_migrated_step_by_step_and_goes_on_where_it_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.home / "models").mkdir()  # and no state.json: release 0.1.0
    done: list[int] = []

    def second(settings: Settings) -> None:
        assert written(settings)["format"] == 2, "the first step is noted before the second begins"
        done.append(2)
        if done.count(2) == 1:
            raise OSError("the disk is full")

    monkeypatch.setattr(state, "MIGRATIONS", (lambda _: done.append(1), second))
    with pytest.raises(OSError, match="full"):
        state.migrate(settings)
    assert state.migrate(settings) == "format 2 brought to 3"
    assert done == [1, 2, 2]
    assert written(settings)["format"] == 3


def test_a_newer_state_is_refused_and_left_alone(settings: Settings) -> None:
    text = json.dumps({"format": 99, "release": "7.0.0"})
    (settings.home / "state.json").write_text(text)
    with pytest.raises(StepFailedError, match=r"format 99 .* release 7\.0\.0") as caught:
        state.migrate(settings)
    assert "7.0.0" in caught.value.hint
    assert (settings.home / "state.json").read_text() == text


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "x"}'])
def test_a_damaged_state_file_is_named(settings: Settings, text: str) -> None:
    (settings.home / "state.json").write_text(text)
    with pytest.raises(StepFailedError, match=r"state\.json is damaged"):
        state.migrate(settings)


def test_another_number_of_partitions_is_noticed(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "kafka" / "data" / f"{REQUEST_TOPIC}-{number}").mkdir(parents=True)
    state.check(Settings(home=tmp_path, topic_partitions=2))
    with pytest.raises(StepFailedError, match=r"FLIGHTS_TOPIC_PARTITIONS is 3, but .* 2 partitions") as caught:
        state.check(Settings(home=tmp_path, topic_partitions=3))
    assert "FLIGHTS_TOPIC_PARTITIONS=2" in caught.value.hint
    state.check(Settings(home=tmp_path, topic_partitions=3, kafka_bootstrap="kafka.example:9092"))


def test_answers_stay_with_the_server_that_has_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def mongo() -> str:
        return Path(services(settings, Secrets())[0].command[0]).name

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert mongo() == "mongod"
    (settings.home / "mongo" / "embedded.mv.db").touch()  # mongod was installed later
    assert mongo() == "java"
    (settings.home / "mongo" / "embedded.mv.db").unlink()
    (settings.home / "mongo" / "WiredTiger").touch()
    state.check(settings)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StepFailedError, match="written by a mongod"):
        state.check(settings)
    state.check(Settings(home=settings.home, mongo_uri="mongodb://db.example/"))


def test_changed_code_and_settings_are_noticed_on_a_running_stack(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "webapp" / "__pycache__").mkdir(parents=True)
    (project / "webapp" / "a.py").write_text("1")
    monkeypatch.setattr(state, "PROJECT", project)
    assert state.changed_since_start(settings) == ["code"], "release 0.1.0 noted nothing"
    (settings.home / "run").mkdir()
    state.remember_start(settings)
    assert state.changed_since_start(settings) == []
    (project / "webapp" / "__pycache__" / "a.pyc").write_text("2")
    assert state.changed_since_start(settings) == []
    assert state.changed_since_start(settings.model_copy(update={"web_threads": 5})) == ["settings"]
    (project / "webapp" / "a.py").write_text("2")
    assert state.changed_since_start(settings) == ["code"]
