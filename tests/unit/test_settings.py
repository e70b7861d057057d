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
        ("FLIGHTS_PORT_WEB", "web", "valid integer"),
        ("FLIGHTS_PORT_OFFSET", "5800", "less than or equal to 5700"),
        ("FLIGHTS_PORT_WEB", "10080", "browsers refuse port 10080"),
        ("FLIGHTS_TRIGGER", "often", "'realtime' or 'microbatch'"),
        ("FLIGHTS_WEB_PORT", "5001", r"no such setting; do you mean FLIGHTS_PORT_WEB\?"),
        ("FLIGHTS_PORT_OFSET", "300", r"no such setting; do you mean FLIGHTS_PORT_OFFSET\?"),
        ("FLIGHTS_MONGO_URI", "mongodb://host/", r"no such setting; do you mean MONGO_URI\?"),
        ("FLIGHTS_XYZ", "1", "no such setting; README.md has the list"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str, accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable}: .*{accepted}") as error:
        get_settings.__wrapped__()
    assert "se@cret" not in str(error.value)


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
