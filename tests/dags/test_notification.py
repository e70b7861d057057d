"""A mail to a person when a task has failed for good: Airflow's SMTP notifier, and a mail server of the test's own."""

from __future__ import annotations

import json
import socketserver
import threading
from email import message_from_bytes
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest

from flight_delays.settings import get_settings
from flight_delays_airflow.names import dag_args
from stack.services import _smtp_connection


class MailServer(socketserver.StreamRequestHandler):
    """As much SMTP as it takes to receive a mail; keeps it in `received`."""

    received: list[bytes] = []  # noqa: RUF012

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            command = line[:4].upper()
            self.wfile.write(b"354 go\r\n" if command == b"DATA" else b"250 fine\r\n")
            if command == b"DATA":
                lines = iter(self.rfile.readline, b".\r\n")
                self.received.append(b"".join(lines))
                self.wfile.write(b"250 taken\r\n")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    get_settings.cache_clear()
    yield monkeypatch
    get_settings.cache_clear()


def test_nobody_is_told_unless_they_ask(fresh: pytest.MonkeyPatch) -> None:
    assert "on_failure_callback" not in dag_args(__file__)["default_args"]


def test_a_failed_task_is_told_by_mail(fresh: pytest.MonkeyPatch) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fresh.setenv("FLIGHTS_NOTIFY_EMAIL", "ops@example.org")
        fresh.setenv("FLIGHTS_SMTP_URL", f"smtp://127.0.0.1:{server.server_address[1]}")
        fresh.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(_smtp_connection(get_settings())))
        task = SimpleNamespace(task_id="act", dag_id="flight_delay_predictor", log_url="http://127.0.0.1/log")
        context = {"ti": task, "run_id": "manual__1", "exception": ValueError("model <x> is missing")}
        dag_args(__file__)["default_args"]["on_failure_callback"](context)
        server.shutdown()
    [raw] = MailServer.received
    mail: Message = message_from_bytes(raw)
    assert (mail["To"], mail["Subject"]) == ("ops@example.org", "flight_delay_predictor: act failed")
    [html] = [part.get_payload(decode=True).decode() for part in mail.walk() if part.get_content_type() == "text/html"]  # type: ignore[union-attr]
    assert "model &lt;x&gt; is missing" in html
    assert "http://127.0.0.1/log" in html


def test_the_address_of_the_mail_server_says_all() -> None:
    settings = get_settings().model_copy(update={"smtp_url": "smtps://me:p%40ss@mail.example.org"})
    found = _smtp_connection(settings)
    assert (found["host"], found["port"], found["login"], found["password"]) == ("mail.example.org", 465, "me", "p@ss")
    assert found["extra"] == {"disable_ssl": False, "disable_tls": False}
