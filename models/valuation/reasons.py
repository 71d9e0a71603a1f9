"""Why a car is worth what it is: what moved the price against a plain base, and which past sales it leaned
on.

The parts add up to the point (ln) exactly. Base: a car of this list price (or trade value) at the market's
mean age and mileage. Age, mileage, condition and brand: read off the base curve and the brand's line. Region
and market: what the whole network gives less what it gives when it is not told the region, then the weeks.
Comparables: the attended residual of past sales. The rest is what the network adds for the car's other
properties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from models.valuation.curve import basis
from models.valuation.features import INDEXES, MARKET_COLUMNS, Features
from models.valuation.pack import Pack
from models.valuation.state import condition_of
from models.valuation.table import NONE, Floats, Table

Infer = Callable[[Features, int], Mapping[str, Floats]]
"""Outputs of the network for one row of the features: quantiles, attention, parts."""

POINT: Final = 3
"""Place of the point among the seven quantiles."""
SHOWN: Final = 5
"""Comparables that are listed; their weights stand beside them."""
LEAST_WEIGHT: Final = 0.01
SMALL: Final = 0.005
"""Effects under half a percent are left out of the sentence."""
WORDS: Final = {
    "age": "its age", "mileage": "its mileage", "condition": "its condition", "brand": "the brand",
    "comparables": "comparable sales", "market": "the last weeks of the market", "region": "the region",
    "rest": "its other properties",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reasons:
    """`base` in ln of the price over the anchor; `effects` (ln) by name, in a fixed order, adding up to the
    point."""

    base: float
    effects: Mapping[str, float]

    def as_json(self, anchor: float) -> dict[str, Any]:
        """Base as an amount, effects as factors less 1."""
        return {
            "base": round(math.exp(self.base + anchor)),
            "base_is": "a car of this list price or trade value at the market's mean age and mileage",
            "effects": {name: round(math.expm1(value), 4) for name, value in self.effects.items()},
        }

    def sentence(self, anchor: float, currency: str) -> str:
        """The effects for people, the largest first."""
        large = sorted(self.effects.items(), key=lambda item: -abs(item[1]))
        moved = [f"{WORDS[name]} {math.expm1(value):+.1%}" for name, value in large if abs(value) >= SMALL]
        amount = f"{math.exp(self.base + anchor):,.0f} {currency}"
        found = ", ".join(moved) if moved else "nothing moves it by half a percent"
        return f"Against {amount} for a car of its list price at mean age and mileage: {found}."


def reasons_of(
    car: Table, pack: Pack, features: Features, outputs: Mapping[str, Floats], infer: Infer
) -> Reasons:
    """The reasons of the vehicle of `pair_of`, its features and outputs (row 0) given; two more runs."""
    point = float(outputs["quantiles"][POINT])
    without_region = infer(features, 1)
    calm = infer(calmed(features), 1)
    age, km, age_0, km_0 = float(car.age[0]), float(car.km[0]), float(pack.centre[2]), float(pack.centre[1])
    steps = replace(car.take(np.zeros(4, np.int32)), age=np.array([age_0, age, age, age]))
    steps = replace(steps, km=np.array([km_0, km_0, km, km]))
    grade = float(condition_of(car, pack.centre)[0])
    x = basis(steps, float(pack.centre[0]), np.array([0.0, 0.0, 0.0, grade]))
    base, aged, driven, graded = (float(value) for value in x @ pack.curve)
    effects = {
        "age": aged - base + float(pack.head[2]) * (age - age_0) / 2.0,
        "mileage": driven - aged + float(pack.head[1]) * (km - km_0),
        "condition": graded - driven,
        "brand": float(pack.head[0]),
        "comparables": float(calm["parts"][2]),
        "market": float(without_region["quantiles"][POINT] - calm["quantiles"][POINT]),
        "region": point - float(without_region["quantiles"][POINT]),
    }
    effects["rest"] = point - base - sum(effects.values())
    return Reasons(base, effects)


def pair_of(car: Table) -> Table:
    """The vehicle, and the same vehicle in no known region: one pass makes the features of both."""
    both = car.take(np.zeros(2, np.int32))
    return replace(both, region=np.array([car.region[0], NONE], np.int32))


def calmed(features: Features) -> Features:
    """The features with every week and region at its long-run level; volumes stay."""
    sequence, regions, market = features.sequence.copy(), features.regions.copy(), features.market.copy()
    sequence[:, :, 0::2] = 0.0
    regions[:, :, :2] = 0.0
    for name in INDEXES:
        market[:, MARKET_COLUMNS.index(f"index_{name}")] = 0.0
    return replace(features, sequence=sequence, regions=regions, market=market)


@dataclass(frozen=True, slots=True)
class Comparable:
    """A past sale the valuation leaned on. `weight`: attention; `price` as it stands in the pack."""

    weight: float
    price: float
    day: int
    age: float
    km: float
    region: str
    same_model: bool
    same_series: bool
    distance: float

    def as_json(self) -> dict[str, Any]:
        """Rounded as it is shown."""
        return {
            "weight": round(self.weight, 3), "price": round(self.price), "day": self.day,
            "age_years": round(self.age, 1), "km": 1_000 * round(self.km / 1_000), "region": self.region,
            "same_model": self.same_model, "same_series": self.same_series,
            "distance": round(self.distance, 2),
        }  # fmt: skip


def comparables_of(
    car: Table, pack: Pack, features: Features, attention: Floats, regions: Mapping[int, str]
) -> tuple[Comparable, ...]:
    """The sales with the largest weights, at most five."""
    found = []
    for place in np.argsort(-attention, kind="stable")[:SHOWN]:
        row, weight = int(features.chosen[0, place]), float(attention[place])
        if row < 0 or weight < LEAST_WEIGHT:
            continue
        sales = pack.sales
        found.append(
            Comparable(
                weight,
                math.exp(float(sales.y[row] + sales.anchor[row])),
                int(sales.day[row]),
                float(sales.age[row]),
                float(sales.km[row]) * 10_000.0,
                regions.get(int(sales.region[row]), ""),
                bool(sales.model[row] == car.model[0] and car.model[0] >= 0),
                bool(sales.series[row] == car.series[0] and car.series[0] >= 0),
                float(features.comparables[0, place, 15]) * 2.0,
            )
        )
    return tuple(found)
