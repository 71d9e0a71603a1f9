"""A small invented market for the valuation's tests: a few hundred cars of six series, with a known price
law."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.valuation.dataset import sorted_by_day
from models.valuation.table import Columns, Table, learn_columns, make_table

START = np.datetime64("2023-01-02", "D")
WEEKS = 40


def arrays(cars: int = 1500, seed: int = 5, relisted: float = 0.1) -> dict[str, Any]:
    """Canonical columns as a market folder gives them; a tenth of the cars are listed again three weeks
    later."""
    draw = np.random.default_rng(seed)
    series = draw.integers(0, 6, cars)
    day = draw.integers(0, 7 * WEEKS - 25, cars)
    age = draw.uniform(0.3, 9.0, cars)
    km = np.maximum(age * 1.5 + draw.normal(0, 1.0, cars), 0.1)
    new = 60_000.0 * (1.0 + series) * draw.choice([1.0, 1.2], cars)
    trim = (new > 60_000.0 * (1.0 + series)).astype(int)
    worth = new * np.exp(-0.11 * age - 0.03 * km + 0.05 * (series % 3 - 1) + draw.normal(0, 0.05, cars))
    again = np.flatnonzero(draw.random(cars) < relisted)
    rows = np.concatenate([np.arange(cars), again])
    later = np.concatenate([np.zeros(cars), np.full(len(again), 21)])
    price = worth[rows] * np.where(later > 0, 0.97, 1.0)
    seen = START + (day[rows] + later).astype(int).astype("timedelta64[D]")
    born = START + (day - age * 365.2425).astype(int).astype("timedelta64[D]")
    text = np.vectorize
    order = np.argsort(seen, kind="stable")
    found: dict[str, Any] = {
        "car": text(lambda i: f"{i:032x}", otypes=[object])(rows),
        "seen_on": seen,
        "price": np.round(price),
        "new_price": new[rows],
        "brand": text(lambda s: f"brand {s // 3}", otypes=[object])(series[rows]),
        "series": text(lambda s: f"series {s}", otypes=[object])(series[rows]),
        "model": text(lambda s, t: f"model {s}-{t}", otypes=[object])(series[rows], trim[rows]),
        "registered": born[rows],
        "model_year": (born[rows].astype("datetime64[Y]").astype(int) + 1970).astype(float),
        "odometer_km": np.round(km[rows] * 10_000),
        "region": text(lambda i: f"city {i % 14}", otypes=[object])(rows),
        "colour": text(lambda i: ("black", "white", "")[i % 3], otypes=[object])(rows),
        "gearbox": text(lambda i: ("manual", "automatic")[i % 2], otypes=[object])(rows),
        "transfers": (rows % 3).astype(float),
        "displacement_l": np.where(rows % 4 == 0, np.nan, 1.4 + 0.2 * (series[rows] % 3)),
        "condition": np.where(rows % 5 == 0, np.nan, 30.0 + rows % 11),
        "x_b": (rows % 7).astype(float),
        "x_a": (rows % 2).astype(float),
    }
    return {name: column[order] for name, column in found.items()}


def market(cars: int = 1500, seed: int = 5) -> tuple[Table, Columns, dict[str, Any]]:
    """Table sorted by day, its columns, and the arrays in the same order."""
    found = arrays(cars, seed)
    count = len(found["price"])
    columns = learn_columns(found, "new_price", count)
    return sorted_by_day(make_table(found, columns, count)), columns, found
