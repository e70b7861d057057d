"""The model card: complete, well-formed, and part of what is immutable."""

import re
import xml.etree.ElementTree as ET

import pytest

from flight_delays.errors import RegistryError
from flight_delays.model import registry
from flight_delays.model.model_card import NAME, write
from tests.versions import SCORES, WORSE, beside, metadata, stage


@pytest.fixture
def card(tmp_path):
    write(tmp_path, metadata(metrics_without_conditions=WORSE, comparison=beside("20260101T030007Z-00000000")))
    return (tmp_path / NAME).read_text()


@pytest.mark.parametrize(
    "expected",
    """2026-01-01 04:00|2013-02-28|Very Late|model, without conditions|baseline commonest bucket|trees 20|1.200|0.900
|0.800 said|champion 20260101T030007Z-00000000|DepDelay|By carrier|By origin|EWR""".replace("\n", "").split("|"),
)
def test_the_card_tells_it(card, expected):
    assert expected in card


def test_tables_are_tables(card):
    rows = [re.split("<t[dh][^>]*>", row)[1:] for row in re.findall(r"<tr>[^\n]*", card)]
    late = next(row for row in rows if row[0].startswith("Very Late"))
    assert [cell.partition(" ")[0] for cell in late[1:]] == ["0", "1", "2", "12"]
    tables = re.findall(r"<table>.*?</table>", card, re.DOTALL)
    assert len(tables) == 5
    assert all(
        len({len(re.findall("<t[dh]", row)) for row in re.findall(r"<tr>[^\n]*", table)}) == 1 for table in tables
    )


def test_plots_are_in_the_page_and_a_name_is_no_markup(card):
    drawings = [ET.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", card, re.DOTALL)]  # noqa: S314
    assert len(drawings) == 1 + 3 + 2, "the calibration curve, a bar a carrier and origin, a bar an input"
    assert len(drawings[0].findall("circle")) == 2
    assert drawings[0].find("polyline").get("points").split() == ["120.0,210.0", "240.0,30.0"]
    assert "<script>" not in card
    assert "&lt;script&gt;" in card
    assert "http" not in card, "nothing is loaded from elsewhere"


def test_a_model_that_says_little_has_a_card_too(tmp_path):
    write(tmp_path, metadata(calibration=(), confusion=(), by_carrier={}, importances={}, metrics=SCORES))
    assert (tmp_path / NAME).read_text()


def test_the_card_is_part_of_the_version(tmp_path):
    models = tmp_path / "models"
    version = registry.register(models, stage(tmp_path / "staged"))
    card = models / version / "model_card.html"
    card.chmod(0o644)
    card.write_text("better")
    with pytest.raises(RegistryError, match="damaged"):
        registry.verify(models, version)
