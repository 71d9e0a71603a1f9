"""The lower bound for lending: split conformal, normalised by the network's own spread, by predicted price
band, rolling.

The score of a past sale is how far it lay above (or, negative, below) the point, in units of the distance
from the point to the 10 % quantile. The bound of a new vehicle is its point plus the lower quantile of recent
scores, times its own distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.valuation.metrics import band_of
from models.valuation.table import Floats, Ints

COVERAGE: Final = 0.90
"""What share of vehicles is worth at least its bound."""

WINDOW_DAYS: Final = 56
"""Days of scores behind a calibration."""

BAND_WEIGHT: Final = 60.0
"""Scores that the whole market weighs in a band's quantile."""

LEAST_SPREAD: Final = 0.02
"""Least distance (ln) from the point to the 10 % quantile: a network that is too sure is not believed."""

FEW_SCORES: Final = 50
"""With fewer scores there is no bound: the caller must refuse rather than guess."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Quantile of the scores by predicted price band. `n`: scores behind each."""

    edges: tuple[float, ...]
    overall: float
    bands: tuple[float, ...]
    n: tuple[int, ...]
    coverage: float = COVERAGE


def scores(y: Floats, point: Floats, low: Floats) -> Floats:
    """Score of each sale (ln of price over anchor, all three)."""
    found: Floats = (y - point) / np.maximum(point - low, LEAST_SPREAD)
    return found


def lower_quantile(values: Floats, tail: float, weights: Floats | None = None) -> float:
    """The floor(tail (n + 1))-th smallest value: finite-sample lower quantile of split conformal
    prediction."""
    if weights is None:
        rank = int(np.floor(tail * (len(values) + 1)))
        return float(np.partition(values, rank - 1)[rank - 1]) if rank >= 1 else float(values.min())
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    at = int(np.searchsorted(total, tail * (total[-1] + weights.mean()), side="right"))
    return float(values[order][max(at - 1, 0)])


def calibrate(
    score: Floats, value: Floats, edges: Sequence[float], *, coverage: float = COVERAGE
) -> Calibration | None:
    """Quantiles of recent scores by predicted price band; None with fewer than `FEW_SCORES`."""
    if len(score) < FEW_SCORES:
        return None
    overall = lower_quantile(score, 1.0 - coverage)
    band = band_of(value, edges)
    quantiles, count = [], []
    for number in range(len(edges) + 1):
        own = score[band == number]
        part = len(own) / (len(own) + BAND_WEIGHT)
        quantiles.append(
            part * lower_quantile(own, 1.0 - coverage) + (1.0 - part) * overall if len(own) else overall
        )
        count.append(len(own))
    return Calibration(tuple(edges), overall, tuple(quantiles), tuple(count), coverage)


def bound(calibration: Calibration, value: Floats, point: Floats, low: Floats) -> Floats:
    """Lower bound (ln of price over anchor), never above the point. `value`: predicted price; it chooses
    the band."""
    quantile = np.asarray(calibration.bands)[band_of(value, calibration.edges)]
    found: Floats = point + np.minimum(quantile, 0.0) * np.maximum(point - low, LEAST_SPREAD)
    return found


def window(day: Ints, cutoff: int) -> Ints:
    """Rows whose score may calibrate at a cut-off: posted in the 56 days before it."""
    return np.flatnonzero((day < cutoff) & (day >= cutoff - WINDOW_DAYS)).astype(np.int32)
