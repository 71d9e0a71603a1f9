"""The base curve of a week and the brands' readable depreciation lines: two small ridge regressions.

The curve is what any car of this age, mileage and list price is worth; a brand's line says by how much its
cars lie above that, and how much more or less they lose with 10,000 km and with a year. Both are refitted
each week on what was visible.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.valuation.table import Floats, Ints, Table

BASE_RIDGE: Final = 1.0
"""Ridge of the base curve: keeps a market of a few sales finite."""

ROBUST: Final = 0.5
"""Residual (ln) from which a sale pulls the base curve with falling weight (Huber)."""

HEAD_RIDGE: Final = (100.0, 300.0, 300.0)
"""Shrinkage of a brand's constant, mileage and age coefficient, in sales (columns centred, unit: 10,000 km,
year / 2)."""

MIN_SALES: Final = 20
"""Below this a market has no curve: every coefficient is 0 but the mean."""


def basis(table: Table, anchor_centre: float, condition: Floats) -> Floats:
    """Columns of the base curve: age, mileage, anchor price and condition (mean 0), all of order 1."""
    age, km, worth = table.age / 5.0, table.km / 5.0, table.anchor - anchor_centre
    return np.stack(
        [
            np.ones(len(table)),
            age,
            age * age,
            np.sqrt(age),
            km,
            km * km,
            age * km,
            worth,
            age * worth,
            condition,
            condition * condition,
            condition * age,
        ],
        axis=1,
    )


def weighted_ridge(x: Floats, y: Floats, weight: Floats, ridge: float) -> Floats:
    """Coefficients; the first column (the constant) is not shrunk."""
    penalty = np.full(x.shape[1], ridge)
    penalty[0] = 1e-6
    gram = (x * weight[:, None]).T @ x + np.diag(penalty)
    return np.asarray(np.linalg.solve(gram, x.T @ (weight * y)), dtype=np.float64)


def fit_curve(x: Floats, y: Floats, weight: Floats) -> Floats:
    """The base curve, fitted twice: the second time far residuals pull less, so that 5 % of absurd prices
    bend it little."""
    if len(y) < MIN_SALES:
        flat = np.zeros(x.shape[1])
        flat[0] = float(np.median(y)) if len(y) else 0.0
        return flat
    start = weight * (
        np.abs(y - np.median(y)) < 3.0 * max(float(np.median(np.abs(y - np.median(y)))), 0.1) * 1.5
    )
    coefficients = weighted_ridge(x, y, start, BASE_RIDGE)
    for _ in range(2):
        far = np.abs(y - x @ coefficients)
        pull = weight * np.minimum(1.0, ROBUST / np.maximum(far, 1e-9))
        coefficients = weighted_ridge(x, y, pull, BASE_RIDGE)
    return coefficients


def head_columns(table: Table, centre: Floats) -> Floats:
    """Constant, mileage (10,000 km) and age (2 years) less their centres: what a brand's three coefficients
    multiply."""
    return np.stack([np.ones(len(table)), table.km - centre[0], (table.age - centre[1]) / 2.0], axis=1)


def fit_heads(columns: Floats, residual: Floats, weight: Floats, brand: Ints, brands: int) -> Floats:
    """(brands, 3): each brand's constant, mileage and age coefficient over the base curve, shrunk to 0."""
    gram = np.zeros((brands, 3, 3))
    right = np.zeros((brands, 3))
    known = brand >= 0
    code, x, w = brand[known], columns[known], weight[known]
    for i in range(3):
        right[:, i] = np.bincount(code, w * x[:, i] * residual[known], brands)
        for j in range(3):
            gram[:, i, j] = np.bincount(code, w * x[:, i] * x[:, j], brands)
    gram += np.diag(HEAD_RIDGE)
    return np.asarray(np.linalg.solve(gram, right[:, :, None])[:, :, 0], dtype=np.float64)
