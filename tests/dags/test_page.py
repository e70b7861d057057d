"""The page Predictor in Airflow, as far as it goes without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from flight_delays.settings import get_settings
from tests.versions import UNREADABLE


@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_page_offers_the_versions_whatever_the_pointer_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from flight_delays_airflow import page

    monkeypatch.setenv("FLIGHTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    (tmp_path / "models" / "20260101T030000Z-1a2b3c4d").mkdir(parents=True)
    UNREADABLE[kind](tmp_path / "models" / "pointer.json")
    assert page._versions() == [("20260101T030000Z-1a2b3c4d", "")]
    get_settings.cache_clear()
