"""The contract's messages as JSON Schemas, for other languages: `python -m flight_delays.schemas docs/schemas`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from flight_delays.contract import DeadLetter, Message, Pair, Request, Response

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


def write(folder: Path) -> list[Path]:
    """Writes all schemas as `<name>.schema.json` and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in MODELS:
        paths.append(folder / f"{name}.schema.json")
        paths[-1].write_text(json.dumps(schema(name), indent=2) + "\n")
    return paths


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")  # noqa: T201 - a command's own output
