"""Writes a model card beside its model: card.json and card.md, both or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.valuation.card import card, markdown


def write_card(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The card as JSON. Raises ValuationError before anything is written where an input is missing."""
    made = card(given)
    texts = {
        "card.json": json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        "card.md": markdown(made),
    }
    for name, text in texts.items():
        part = folder / f"{name}.part"
        part.write_text(text, "utf-8")
    for name in texts:
        (folder / f"{name}.part").replace(folder / name)
    return made
