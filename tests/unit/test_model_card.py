"""The model card: complete, well-formed, and part of what is immutable."""

import re
import xml.etree.ElementTree as ET

import pytest

from flight_delays.errors import RegistryError
from flight_delays.model import registry
from flight_delays.model.model_card import NAMES, write
from tests.versions import SCORES, WORSE, beside, metadata, stage


@pytest.fixture
def cards(tmp_path):
    write(tmp_path, metadata(metrics_without_context=WORSE, comparison=beside("20260101T030007Z-00000000")))
    return [(tmp_path / name).read_text() for name in NAMES]


@pytest.mark.parametrize(
    "expected",
    """2026-01-01 04:00|2013-02-28|Very Late|model, without context|baseline commonest bucket|trees 20|1.200|0.900
|champion 20260101T030007Z-00000000|DepDelay|By carrier|By origin|EWR""".replace("\n", "").split("|"),
)
def test_both_cards_tell_it(cards, expected):
    assert all(expected in card for card in cards)


def test_markdown_tables_are_tables(cards):
    rows = [line for line in cards[0].splitlines() if line.startswith("|")]
    assert "| Very Late (30+ Minutes Late) | 0 | 1 | 2 | 12 |" in rows
    assert "| 0.800 | 0.900 | 30 |" in rows
    blocks = [block.splitlines() for block in cards[0].split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    assert all(len({row.count("|") for row in block}) == 1 for block in blocks)


def test_plots_are_in_the_page_and_a_name_is_no_markup(cards):
    page = cards[1]
    drawings = [ET.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]  # noqa: S314
    assert len(drawings) == 1 + 3 + 2, "the calibration curve, a bar a carrier and origin, a bar an input"
    assert len(drawings[0].findall("circle")) == 2
    assert drawings[0].find("polyline").get("points").split() == ["120.0,210.0", "240.0,30.0"]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page, "nothing is loaded from elsewhere"


def test_a_model_that_says_little_has_a_card_too(tmp_path):
    write(tmp_path, metadata(calibration=(), confusion=(), by_carrier={}, importances={}, metrics=SCORES))
    assert all((tmp_path / name).read_text() for name in NAMES)


def test_the_card_is_part_of_the_version(tmp_path):
    models = tmp_path / "models"
    version = registry.register(models, stage(tmp_path / "staged"))
    card = models / version / "model_card.html"
    card.chmod(0o644)
    card.write_text("better")
    with pytest.raises(RegistryError, match="damaged"):
        registry.verify(models, version)
