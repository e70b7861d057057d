"""Writes what docs/ shows of the code: the contract's messages as JSON Schemas, and the settings as a table.

`python -m flight_delays.schemas docs` writes docs/schemas/ and docs/settings.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from flight_delays.contract import DeadLetter, Message, Pair, Request, Response
from flight_delays.settings import PROJECT, Settings, variable_of

MODELS: Final[dict[str, type[Message]]] = {
    "request": Request,
    "response": Response,
    "dead_letter": DeadLetter,
    "distance": Pair,
}


class _Untitled(GenerateJsonSchema):
    """Without the titles that pydantic makes of the fields' names ("Uuid")."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a model of `MODELS`."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:flight-delays:{name}",
        **MODELS[name].model_json_schema(schema_generator=_Untitled),
    }


def settings_page() -> str:
    """All settings as Markdown: variable, default and description."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default.relative_to(PROJECT) if isinstance(field.default, Path) else field.default
        shown = json.dumps(default) if isinstance(default, bool) else str(default)
        meaning = " ".join(str(field.description).split()).removesuffix(".")
        rows.append(f"| `{variable_of(name)}` | {shown and f'`{shown}`'} | {meaning} |")
    return "\n".join([_SETTINGS, *rows, ""])


_SETTINGS = """# Settings

Every process reads its settings from environment variables when it starts. It refuses an unknown `FLIGHTS_` variable
and a value that is not accepted. `make schemas` writes this page from `include/flight_delays/settings.py`. A setting
without a variable is read from a file of its name in lower case in `/run/secrets`, e.g. `mongo_uri`, if there is one.

The ports are those before `FLIGHTS_PORT_OFFSET` is added. All are on loopback.

| variable | default | meaning |
|---|---|---|"""


def write(docs: Path) -> list[Path]:
    """Writes all schemas as `schemas/<name>.schema.json`, and `settings.md`; returns their paths."""
    (docs / "schemas").mkdir(parents=True, exist_ok=True)
    texts = {f"schemas/{name}.schema.json": json.dumps(schema(name), indent=2) + "\n" for name in MODELS}
    texts["settings.md"] = settings_page()
    for name, text in texts.items():
        (docs / name).write_text(text)
    return [docs / name for name in texts]


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")  # noqa: T201 - a command's own output
