"""The published JSON Schemas and the page of settings say what the code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flight_delays import schemas, settings
from flight_delays.settings import PROJECT
from tests.unit.test_contract import VALID

FOLDER = PROJECT / "docs" / "schemas"


def test_the_files_are_up_to_date(tmp_path: Path) -> None:
    written = schemas.write(tmp_path)
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in written if path.parent.name == "schemas"}
    for path in written:
        assert (PROJECT / "docs" / path.relative_to(tmp_path)).read_text() == path.read_text(), "run make schemas"


def test_the_page_of_settings_explains_every_setting() -> None:
    page = schemas.settings_page()
    for name, field in settings.Settings.model_fields.items():
        assert f"| `{settings.variable_of(name)}` |" in page
        assert field.description, name


@pytest.mark.parametrize("name", schemas.MODELS)
def test_a_schema_is_valid_and_explains_every_field(name: str) -> None:
    found = json.loads((FOLDER / f"{name}.schema.json").read_text())
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:flight-delays:{name}"
    Draft202012Validator.check_schema(found)
    for field, spec in found["properties"].items():
        assert spec.get("description"), field


@pytest.mark.parametrize(
    "changes", [{"DepDelay": "5"}, {"DepDelay": 4321}, {"Carrier": "aa"}, {"UUID": 1}, {"CRSDepTime": "2400"}]
)
def test_a_wrong_request_is_refused(changes: dict[str, Any]) -> None:
    validator = Draft202012Validator(schemas.schema("request"))
    assert validator.is_valid(VALID)
    assert not validator.is_valid(VALID | changes)
