"""The fields of the DAGs' forms, by section."""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import Param

TEXT: Final = ["null", "string"]
"""The type of a text that may be empty."""


def field(default: Any, kind: str | list[str], title: str, description: str, **limits: Any) -> Param:
    """A field; `kind` and `limits` are JSON Schema's."""
    return Param(default, type=kind, title=title, description=description, **limits)


def section(name: str, **fields: Param) -> dict[str, Param]:
    """The fields below one heading."""
    for each in fields.values():
        each.schema["section"] = name
    return fields
