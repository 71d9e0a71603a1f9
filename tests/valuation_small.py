"""A small invented market, its packs, and a model of a few lines that stands in for the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.valuation.conformal import Calibration
from models.valuation.dataset import sorted_by_day
from models.valuation.features import COMPARABLE_COLUMNS, INDEXES, MARKET_COLUMNS, Features, features_hash
from models.valuation.modelfile import ModelMeta
from models.valuation.pack import Cutter
from models.valuation.packfile import write_pack
from models.valuation.state import last_visible, monday, week_state
from models.valuation.table import Columns, Floats, Ints, Table, learn_columns, make_table

FIRST = 19_000
"""First day of the market: 2022-01-08."""
DAYS = 300
LEVELS = (0.05, 0.10, 0.25, 0.75, 0.90, 0.95)


def arrays(cars: int = 900, seed: int = 3) -> dict[str, Any]:
    """Sales of three series of two brands in four towns, in the columns of the market schema."""
    draw = np.random.default_rng(seed)
    day = np.sort(draw.integers(FIRST, FIRST + DAYS, cars))
    age = draw.uniform(0.5, 12.0, cars)
    km = age * draw.uniform(8_000, 22_000, cars)
    which = draw.choice(4, cars, p=[0.5, 0.3, 0.18, 0.02])
    series = np.array(["Fjord", "Alp", "Dune", "Rare"], dtype=object)[which]
    brand = np.array(["Nord", "Nord", "Sud", "Sud"], dtype=object)[which]
    new = np.array([120e3, 180e3, 90e3, 250e3])[which] * draw.uniform(0.9, 1.1, cars)
    town = draw.choice(["Aville", "Bourg", "Cote", "Dorf"], cars)
    y = -0.06 - 0.11 * age - 0.0000015 * km + np.array([0.1, 0.0, -0.05, 0.0])[which]
    y = y + 0.03 * (town == "Aville") + draw.normal(0.0, 0.06, cars)
    return {
        "seen_on": (np.datetime64("1970-01-01") + day).astype("datetime64[D]"),
        "car": np.array([f"{n:032x}" for n in draw.permutation(cars)], dtype=object),
        "brand": brand,
        "series": series,
        "model": np.array(
            [f"{s} {n}" for s, n in zip(series, draw.integers(1, 4, cars), strict=True)], object
        ),
        "registered": (np.datetime64("1970-01-01") + (day - age * 365.25).astype(int)).astype(
            "datetime64[D]"
        ),
        "model_year": np.floor(1970 + (day - age * 365.25) / 365.2425),
        "odometer_km": km,
        "new_price": new,
        "price": new * np.exp(y),
        "region": town.astype(object),
        "gearbox": draw.choice(["hand", "auto"], cars).astype(object),
        "transfers": draw.integers(0, 4, cars).astype(float),
    }


def market(cars: int = 900, seed: int = 3) -> tuple[Table, Columns]:
    """The market as a table sorted by day."""
    found = arrays(cars, seed)
    columns = learn_columns(found, "new_price", cars)
    return sorted_by_day(make_table(found, columns, cars)), columns


def week_of(day: int = FIRST + DAYS) -> int:
    """The Monday of a day."""
    return int(monday(np.array([day], np.int32))[0])


def pack_bytes(
    brand: str = "Nord",
    series: str = "Fjord",
    *,
    cars: int = 900,
    day: int = FIRST + DAYS,
    synthetic: bool = True,
    name: str = "small",
) -> bytes:
    """The pack of a series, for the week of a day."""
    table, columns = market(cars)
    cutter = Cutter(week_state(table, last_visible(table), week_of(day), head=True))
    codes = columns.words
    word = f"{brand}/{series}"
    pack = cutter.cut(codes["brand"].get(brand, -1), codes["series"].get(word, -1))
    return write_pack(
        pack, columns, market=name, currency="XTS", synthetic=synthetic, head=True, names=(brand, word)
    )


def meta(**other: Any) -> ModelMeta:
    """What a model of this market says about itself."""
    _, columns = market()
    known: dict[str, Any] = {
        "market": "small", "currency": "XTS", "synthetic": True, "anchor": "new_price", "extra": (),
        "features": features_hash(columns, head=True), "head": True, "trained_until": week_of() - 14,
        "sales": 900, "seeds": 1, "seed": 1, "levels": LEVELS, "lag_days": 14,
        "calibration": Calibration((100_000.0,), -1.1, (-1.2, -1.0), (200, 150)),
        "calibrated_on": week_of(),
    }  # fmt: skip
    return ModelMeta(**{**known, **other})


def infer(features: Features, row: int = 0) -> Mapping[str, Floats]:
    """Base curve + brand line + mean residual of the comparables + a tenth of the market's level and of the
    town's."""
    there = features.comparables[row, :, COMPARABLE_COLUMNS.index("there")]
    attention = there / max(float(there.sum()), 1.0)
    attended = float((attention * features.comparables[row, :, 0]).sum())
    curve = float(features.car[row, 0])
    line = float((features.head[row, :3] * features.head[row, 3:]).sum())
    index = features.market[row, [MARKET_COLUMNS.index(f"index_{n}") for n in INDEXES]]
    delta = 0.1 * float(index[:-1].sum()) + float(index[-1])
    point = curve + line + attended + delta
    steps = np.array([-0.2, -0.12, -0.06, 0.0, 0.05, 0.1, 0.15])
    return {
        "quantiles": point + steps,
        "attention": attention.astype(np.float64),
        "parts": np.array([curve, line, attended, delta]),
    }


VEHICLE: dict[str, Any] = {
    "brand": "Nord", "series": "Fjord", "model": "Fjord 2", "registered": "2019-03-11", "odometer_km": 61_234,
    "new_price": 123_400, "region": "Aville", "gearbox": "auto", "transfers": 1, "model_year": 2019,
}  # fmt: skip
DAY = week_of() + 2


def rows(table: Table) -> Ints:
    """All rows of a table."""
    return np.arange(len(table), dtype=np.int32)
