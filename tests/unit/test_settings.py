"""Settings that cannot be: named by their variable, with what they accept, and without what is secret."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flight_delays.settings import PROJECT, SettingsError, get_settings


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
        ("FLIGHTS_PORT_OFFSET", "50000", "less than or equal to 40000"),
        ("FLIGHTS_TRIGGER", "often", "'realtime' or 'microbatch'"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str, accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable}: .*{accepted}") as error:
        get_settings.__wrapped__()
    assert "se@cret" not in str(error.value)


def test_a_command_says_it_without_a_traceback() -> None:
    settings = {"FLIGHTS_PORT_WEB": "web", "FLIGHTS_SINK_BATCH_SIZE": "0"}
    command = [sys.executable, "-m", "stack", "status"]
    done = subprocess.run(command, env=os.environ | settings, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "FLIGHTS_PORT_WEB: " in done.stderr
    assert "FLIGHTS_SINK_BATCH_SIZE: " in done.stderr
