"""What others wrote is shown, and does nothing, wherever a person reads it."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer
from flask import render_template_string
from rich.console import Console

from flight_delays.answers import dead_letters
from flight_delays.contract import REQUEST_TOPIC
from flight_delays.infra import mongo, printable
from flight_delays.predictor.status import Condition, Status
from flight_delays.settings import PROJECT, Settings
from stack import console
from stack.steps import StepFailedError, explain, step
from tests.conftest import Stack
from webapp import create_app

EVIL = "\x1b]0;title\x07 \x1b[2J\x9b1A \r\x7f\u202egnp.exe\u2066 [red]mark[/red] \ud83d"
ESCAPED = r"\x1b]0;title\x07 \x1b[2J\x9b1A \r\x7f\u202egnp.exe\u2066 [red]mark[/red] \ud83d"


def test_controls_are_shown_and_text_is_kept() -> None:
    assert printable.printable(EVIL) == ESCAPED
    assert printable.printable("Zürich → 成田\n\tnext line") == "Zürich → 成田\n\tnext line"
    assert printable.one_line("a\n2026-01-01 INFO all is well") == r"a\n2026-01-01 INFO all is well"
    assert printable.printable("at mongodb://me:pass@host/?a=b") == "at mongodb://host/?a=b"


def test_a_steps_failure_and_its_log_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "service.log"
    log.write_text("\x1b]0;log\x07\n")
    with pytest.raises(StepFailedError) as caught, step("odd", log=log):
        raise StepFailedError(EVIL)
    assert ESCAPED in explain(caught.value)
    assert r"\x1b]0;log\x07" in explain(caught.value)
    with step("odd") as current:
        current.result = EVIL
    assert "\x1b" not in capsys.readouterr().out


def test_make_status_and_predictions_show_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = Status(at="2026-01-01T00:00:00Z", condition=Condition.SILENT, failed={"m": EVIL}, problems=(EVIL,))  # type: ignore[arg-type]
    monkeypatch.setattr(console, "read_status", lambda _: status)
    out = io.StringIO()
    console.predictor_status(Settings(), Console(file=out, width=400))
    assert ESCAPED in out.getvalue()
    assert not set("\x1b\x07\x9b\u202e") & set(out.getvalue())
    monkeypatch.setattr(mongo, "database", lambda _: nullcontext())
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    flight = {"Carrier": "AA", "Origin": EVIL, "Dest": "SFO", "FlightDate": now, "DepDelay": 5.0, "PredictedAt": now}
    document = {"_id": EVIL, **flight, "Prediction": 2, "Probability": [0.0, 0.1, 0.6, 0.3]}
    monkeypatch.setattr(console, "last_predictions", lambda *_: [document])
    console.predictions(Settings(), 1, as_json=True)
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert json.loads(shown)["_id"] == EVIL
    console.predictions(Settings(), 1)
    shown = capsys.readouterr().out
    assert "Slightly Late 60%" in shown
    assert "\\x1b" in shown
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_make_logs_shows_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "kafka.log").write_bytes(b"\x1b[2J\xff end\n")
    command = [sys.executable, "-m", "stack", "logs", "kafka"]
    with subprocess.Popen(command, cwd=PROJECT, env={"FLIGHTS_HOME": str(tmp_path)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert line.decode() == "\\x1b[2J\ufffd end\n"


def test_a_services_log_has_a_message_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    printable.log_to_stderr(logging.INFO)
    logging.getLogger("service").warning("Refused %s", EVIL + "\n2026-01-01 INFO all is well")
    shown = capsys.readouterr().err
    assert ESCAPED + r"\n2026" in shown
    assert len(shown.splitlines()) == 1


def test_the_report_of_dead_letters_shows_it() -> None:
    example = {"RejectedAt": "2026", "id": "topic-0-1", "UUID": EVIL + "\nforged", "payload": EVIL}
    group = {"rejected": 1, "replayed": 0, "reason": "invalid", "field": EVIL, "examples": [example]}
    shown = dead_letters.as_text({"rejected": 1, "replayed": 0, "since": "2026", "groups": [group]})
    assert len(shown.splitlines()) == 3
    assert ESCAPED + r"\nforged" in shown


@pytest.mark.integration
def test_make_listen_shows_it(stack: Stack) -> None:
    command = [sys.executable, "-u", "-m", "stack", "listen"]
    environment = os.environ | stack.settings.environment
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        stop = threading.Event()

        def produce() -> None:  # until it listens
            while not stop.wait(0.2):
                producer.produce(REQUEST_TOPIC, b"\x1b[2J\nforged \xff")
                producer.flush(1)

        thread = threading.Thread(target=produce)
        thread.start()
        line = process.stdout.readline()
        stop.set()
        thread.join()
        process.terminate()
    assert line.decode().partition(" ")[2] == "\\x1b[2J\\nforged \ufffd\n"


def test_pages_show_it() -> None:
    with create_app(Settings()).test_request_context(base_url="http://localhost/"):
        shown = render_template_string(
            "{{ found.Reason }}{{ html | safe }}", found=SimpleNamespace(Reason=EVIL), html="<b>"
        )
    assert shown == ESCAPED + "<b>"
