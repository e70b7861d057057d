"""The model card of a version, for people: `model_card.md`, and `model_card.html` with plots, drawn without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from flight_delays.contract import BUCKETS
from flight_delays.infra.printable import finalize
from flight_delays.model.registry import Metadata

NAMES: Final = ("model_card.md", "model_card.html")


def write(folder: Path, metadata: Metadata) -> None:
    """Writes both cards into a staged version folder, which becomes immutable with them in it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    scores = {"model": metadata.metrics}
    if metadata.metrics_without_context:
        scores["model, without context"] = metadata.metrics_without_context
    scores |= {f"baseline {name.replace('_', ' ')}": found for name, found in metadata.baselines.items()}
    if metadata.comparison and metadata.comparison.champion:
        scores[f"champion {metadata.comparison.version}"] = metadata.comparison.champion
    for name in NAMES:
        card = environment.get_template(name).render(
            model=metadata,
            scores=scores,
            buckets=[bucket.label for bucket in BUCKETS],
            groups={"carrier": metadata.by_carrier, "origin": metadata.by_origin},
        )
        (folder / name).write_text(card)
