"""Settings that cannot be: named by their variable, with what they accept, and without what is secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flight_delays.settings import PROJECT, Settings, SettingsError, get_settings


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        *(
            ("FLIGHTS_WEB_RATE_LIMIT", rate, "must be like 30/minute")
            for rate in ("fast", "0/minute", "30", "-1/second", "5/fortnight", ";")
        ),
        ("MONGO_URI", "mongodb://host:99999/", "must be like mongodb://.* between 0 and 65535"),
        ("MONGO_URI", "mongodb://ann:se@cret@host/", "must be like mongodb://.* must be escaped"),
        ("FLIGHTS_SPARK_MASTER", "host:7077", "must be like spark://host:7077"),
        ("FLIGHTS_SPARK_CONNECT_URL", "host:15002", "must be like sc://host:15002"),
        ("FLIGHTS_SPARK_UI_URL", "host:8080", "must be like http://host:8080"),
        ("FLIGHTS_KAFKA_BOOTSTRAP", "kafka://host:9092", "must be like host:9092"),
        ("FLIGHTS_KAFKA_BOOTSTRAP", "host", "must be like host:9092"),
        ("FLIGHTS_SMTP_URL", "mail.example:25", "must be like smtp://host:25"),
        ("FLIGHTS_WEB_BIND", "0.0.0.0:5000", "the port is FLIGHTS_PORT_WEB"),
        ("FLIGHTS_WEB_BIND", "0.0.0.0", "only behind a proxy; set FLIGHTS_WEB_PROXIES"),
        ("FLIGHTS_PORT_WEB", "web", "valid integer"),
        ("FLIGHTS_PORT_OFFSET", "5800", "less than or equal to 5700"),
        ("FLIGHTS_PORT_WEB", "10080", "browsers refuse port 10080"),
        ("FLIGHTS_TRIGGER", "often", "'realtime' or 'microbatch'"),
        ("FLIGHTS_WEB_PORT", "5001", r"no such setting; do you mean FLIGHTS_PORT_WEB\?"),
        ("FLIGHTS_PORT_OFSET", "300", r"no such setting; do you mean FLIGHTS_PORT_OFFSET\?"),
        ("FLIGHTS_MONGO_URI", "mongodb://host/", r"no such setting; do you mean MONGO_URI\?"),
        ("FLIGHTS_XYZ", "1", "no such setting; docs/settings.md has the list"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str, accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable}: .*{accepted}") as error:
        get_settings.__wrapped__()
    assert "se@cret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("spark_master", each)
            for each in ("local", "local[*]", "spark://a:7077,b_c:7077", "yarn", "k8s://https://h")
        ),
        *(("kafka_bootstrap", each) for each in ("a:1", "kafka-1.example:9092, [::1]:9092")),
        *(("web_bind", each) for each in ("::1", "127.0.0.2", "localhost")),
        ("spark_connect_url", "sc://[::1]:15002"),
        ("spark_ui_url", "https://host/proxy/app"),
        ("smtp_url", "smtps://ann%40b:s:e@mail.example:465"),
    ],
)
def test_an_address_of_the_right_form_is_taken(name: str, value: str, tmp_path: Path) -> None:
    assert getattr(Settings(home=tmp_path, **{name: value}), name) == value


@pytest.mark.parametrize("address", ["::", "0.0.0.0", "192.0.2.7", "my_host"])
def test_beyond_loopback_only_behind_a_proxy(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"on {address} only behind a proxy; set FLIGHTS_WEB_PROXIES"):
        Settings(home=tmp_path, web_bind=address)
    assert Settings(home=tmp_path, web_bind=address, web_proxies=1).web_bind == address


def test_no_offset_moves_a_port_where_browsers_refuse_it_or_outgoing_connections_take_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FLIGHTS_PORT_WEB: browsers refuse port 6000"):
        Settings(home=tmp_path, port_offset=1000)
    highest = Settings(home=tmp_path, port_offset=5_700)
    ports = [getattr(highest, name) for name in Settings.model_fields if name.startswith("port_")]
    assert max(ports) < 32_768  # Linux's first port for outgoing connections


def test_a_command_says_it_without_a_traceback() -> None:
    settings = {"FLIGHTS_PORT_WEB": "web", "FLIGHTS_SINK_BATCH_SIZE": "0"}
    command = [sys.executable, "-m", "stack", "status"]
    done = subprocess.run(command, env=os.environ | settings, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "FLIGHTS_PORT_WEB: " in done.stderr
    assert "FLIGHTS_SINK_BATCH_SIZE: " in done.stderr


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mongo_uri").write_text("mongodb://flights:secret@mongo/")
    monkeypatch.setitem(Settings.model_config, "secrets_dir", tmp_path)
    assert Settings().mongo_uri == "mongodb://flights:secret@mongo/"
    monkeypatch.setenv("MONGO_URI", "mongodb://elsewhere/")
    assert Settings().mongo_uri == "mongodb://elsewhere/"
