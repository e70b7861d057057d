"""The JVM parts: what is started is what was pinned, however it got there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flight_delays.settings import get_settings
from stack import artifacts


@pytest.mark.integration
def test_a_changed_file_is_not_started_but_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts.fetch(get_settings())
    shutil.copytree(artifacts.JARS, tmp_path / "jars")
    monkeypatch.setattr(artifacts, "JARS", tmp_path / "jars")
    assert artifacts.fetch(get_settings()) == "cached"
    [jar] = (tmp_path / "jars" / "mongo").glob("netty-common-*.jar")
    main = tmp_path / "jars" / "embedded-mongo" / "EmbeddedMongo.class"
    for path in (jar, main):
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert artifacts.fetch(get_settings()) != "cached"
        assert path.read_bytes() == good
    (tmp_path / "jars" / "kafka" / "another.jar").touch()
    assert artifacts.fetch(get_settings()) != "cached"
    assert not (tmp_path / "jars" / "kafka" / "another.jar").exists()
