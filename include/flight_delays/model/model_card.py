"""The model card of a version, for people: one page with its plots, without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flight_delays.contract import BUCKETS
from flight_delays.infra.printable import finalize
from flight_delays.model.registry import Metadata

NAME: Final = "model_card.html"


def write(folder: Path, metadata: Metadata) -> None:
    """Writes the card into a staged version folder, which becomes immutable with it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores = {"model": metadata.metrics}
    if metadata.metrics_without_conditions:
        scores["model, without conditions"] = metadata.metrics_without_conditions
    scores |= {f"baseline {name.replace('_', ' ')}": found for name, found in metadata.baselines.items()}
    if metadata.comparison and metadata.comparison.champion:
        scores[f"champion {metadata.comparison.version}"] = metadata.comparison.champion
    card = environment.get_template(NAME).render(
        model=metadata,
        scores=scores,
        buckets=[bucket.label for bucket in BUCKETS],
        groups={"carrier": metadata.by_carrier, "origin": metadata.by_origin},
    )
    (folder / NAME).write_text(card)
