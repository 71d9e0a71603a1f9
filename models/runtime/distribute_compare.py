"""Whether two releases value alike: a model that was rebuilt against the one that is handed out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import ModelError
from models.runtime.litert import Runner
from models.valuation.features import features_of
from models.valuation.modelfile import ModelFile, read_model
from models.valuation.packfile import read_pack

MODEL: Final = "valuation.tflite"
CARS: Final = 8
"""Past sales of each pack that are valued by both."""


@dataclass(frozen=True, slots=True)
class Compared:
    """`same`: the files are equal to the byte. `worst`: largest difference of ln of any quantile."""

    same: bool
    worst: float
    cars: int
    packs: int


def compare_releases(ours: Path, theirs: Path) -> Compared:
    """Value sales of the packs that both hold. Raises ModelError: nothing in common, other features."""
    models = [_model(folder) for folder in (ours, theirs)]
    if models[0].meta.features != models[1].meta.features:
        raise ModelError("the two models look at different features; rebuild the release with this software")
    runners = [Runner(model.tflite) for model in models]
    worst, cars, packs = 0.0, 0, 0
    for mine, other in _pairs(ours, theirs):
        packs += 1
        pack, _ = read_pack(mine)
        twin, _ = read_pack(other)
        rows = np.unique(np.linspace(0, max(len(pack.sales) - 1, 0), CARS).astype(np.int32))[
            : len(pack.sales)
        ]
        if len(pack.sales) != len(twin.sales):
            worst = np.inf
            continue
        found = [features_of(p.sales.take(rows), p) for p in (pack, twin)]
        for row in range(len(rows)):
            a, b = (r.one(f, row)["quantiles"] for r, f in zip(runners, found, strict=True))
            worst = max(worst, float(np.abs(a - b).max()))
            cars += 1
    if cars == 0 and worst == 0.0:
        raise ModelError(f"{ours} and {theirs} have no pack in common")
    return Compared(models[0].sha256 == models[1].sha256, worst, cars, packs)


def _model(folder: Path) -> ModelFile:
    try:
        return read_model((folder / MODEL).read_bytes())
    except OSError as error:
        raise ModelError(f"{folder / MODEL}: {error.strerror}; name the folder of a release") from None


def _pairs(ours: Path, theirs: Path) -> Iterator[tuple[bytes, bytes]]:
    for path in sorted((theirs / "packs").glob("*.pack")):
        mine = ours / "packs" / path.name
        if mine.exists():
            yield mine.read_bytes(), path.read_bytes()
