"""One refit: fit on what was visible, export, compare with LiteRT. What an evaluation and a release share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.errors import ModelError
from models.runtime.export_network import compare, export
from models.runtime.litert import Runner
from models.runtime.net import Parts
from models.runtime.train_network import Fit, Training, fit_network
from models.valuation.dataset import Dataset, fit_rows
from models.valuation.table import Floats, Ints

COMPARED: Final = 64
"""Vehicles on which an exported file is compared with its network."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """An exported model. `difference`: largest of ln price between Keras and LiteRT; `rows`: sales it was
    fitted on."""

    tflite: bytes
    runner: Runner
    rows: Ints
    until: int
    difference: float


def refit(
    data: Dataset,
    before: int,
    training: Training,
    *,
    lag: int,
    parts: Parts = Parts(),  # noqa: B008
    progress: Callable[[int, int, float], None] | None = None,
    fit: Fit = fit_network,
) -> Fitted:
    """A model fitted on what was visible on day `before`. Raises ModelError where that is too little."""
    rows = fit_rows(data, before, lag=lag)
    if len(rows) < LEAST:
        day = np.datetime64(before, "D")
        raise ModelError(
            f"{len(rows)} sales were visible before {day} (label lag {lag} days); a network needs {LEAST}: "
            "give more history, or a later --test-from"
        )
    network = fit(data.features, data.table.y, data.table.day, rows, training, parts, progress)
    tflite = export(network, data.features)
    some = rows[:: max(len(rows) // COMPARED, 1)][:COMPARED]
    difference = compare(network, tflite, data.features, some)
    return Fitted(tflite, Runner(tflite), rows, before, difference)


LEAST: Final = 300
"""Fewest visible sales a network is fitted on."""


def quantiles_of(fitted: Fitted, data: Dataset, rows: Ints) -> Floats:
    """(rows, 7) quantiles of ln price over anchor, by LiteRT, one vehicle at a time."""
    if not len(rows):
        return np.zeros((0, 7))
    return np.stack([fitted.runner.one(data.features, int(row))["quantiles"] for row in rows])
