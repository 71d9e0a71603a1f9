"""The features of vehicles, from their own data and a market pack: the same code in training and on a
node."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.valuation.curve import basis, head_columns
from models.valuation.pack import Pack
from models.valuation.state import (
    LEVEL_WEEKS,
    MEAN_HALF_LIFE,
    REGIONS,
    SEQUENCE_WEEKS,
    SHRINK,
    condition_of,
    segment_of,
)
from models.valuation.table import NUMBERS, Bools, Columns, Floats, Ints, Table, whole_years

COMPARABLES: Final = 16
COMPARABLE_COLUMNS: Final = (
    "residual", "y", "d_age", "d_km", "d_anchor", "d_year", "d_displacement", "d_condition",
    "same_model", "same_gearbox", "same_region", "same_series", "same_colour", "same_body",
    "days", "distance", "curve", "there",
)  # fmt: skip
MEANS: Final = (
    "everything", "brand", "series", "year", "model", "gearbox", "body", "brand_region", "region", "colour",
    "seller",
)  # fmt: skip
COUNTED: Final = ("brand", "series", "year", "model", "gearbox", "brand_region")
INDEXES: Final = ("all", "segment", "brand", "series", "region")
MARKET_COLUMNS: Final = (
    *(f"mean_{name}" for name in MEANS),
    *(f"n_{name}" for name in COUNTED),
    "near_tight", "near_wide", "near_1", "near_5", "near_spread", "near_distance", "near_n",
    "near_y_tight", "near_y_1",
    *(f"index_{name}" for name in INDEXES),
)  # fmt: skip
CAR_COLUMNS: Final = (
    "curve", "head", "anchor", "age", "km", "km_missing", "km_a_year", "model_age", "month_sin", "month_cos",
)  # fmt: skip
"""Followed by `Columns.numbers` and by whether each of them is missing."""

KERNELS: Final = (0.5, 1.5)
"""Widths (in units of distance) of the two neighbour means."""

VERSION: Final = 1
"""Rises when a feature changes its meaning."""

DISPLACEMENT: Final = NUMBERS.index("displacement_l")
CONDITION: Final = NUMBERS.index("condition")
FAR: Final = 1e6
"""Distance of a sale that may not be used."""


@dataclass(frozen=True, slots=True)
class Features:
    """Inputs of the network for n vehicles, float32. `curve` and `head` are the additive base of ln(price /
    anchor)."""

    car: Floats
    market: Floats
    comparables: Floats
    sequence: Floats
    regions: Floats
    head: Floats
    chosen: Ints
    """Rows of the pack's sales behind the comparables, -1 for none."""


def features_hash(columns: Columns, *, head: bool) -> str:
    """16 hexadecimal digits over everything a model and a pack must agree on: columns, their order, counts
    and constants."""
    agreed = {
        "version": VERSION,
        "anchor": columns.anchor,
        "numbers": columns.numbers,
        "car": CAR_COLUMNS,
        "market": MARKET_COLUMNS,
        "comparables": [COMPARABLES, *COMPARABLE_COLUMNS],
        "weeks": SEQUENCE_WEEKS,
        "regions": REGIONS,
        "shrink": SHRINK,
        "half_life": MEAN_HALF_LIFE,
        "head": head,
    }
    return hashlib.blake2b(json.dumps(agreed, sort_keys=True).encode(), digest_size=8).hexdigest()


def shrunk(count: Floats | float, total: Floats | float, parent: Floats | float, name: str) -> Floats:
    """A mean that leans on its parent as if that were `SHRINK[name]` sales."""
    return np.asarray((total + SHRINK[name] * parent) / (count + SHRINK[name]), dtype=np.float64)


def own_evidence(cars: Table, pack: Pack) -> Bools:
    """(vehicles, sales): which sales are of the vehicle itself."""
    return alike(cars.car, pack.sales.car)


def alike(mine: Ints, theirs: Ints) -> Bools:
    """(vehicles, sales): equal codes; two missing words are never equal."""
    same: Bools = (mine[:, None] == theirs[None, :]) & (mine >= 0)[:, None]
    return same


def without_own(pack: Pack, own: Bools, matches: Bools, after: Floats | float) -> tuple[Floats, Floats]:
    """What a vehicle's own earlier sales put into a sum over the sales that match: (count, total) to take
    away."""
    weight = 0.5 ** ((pack.cutoff - pack.sales.day) / MEAN_HALF_LIFE)
    used = own & matches
    return used @ weight, used @ (weight * (pack.residual - after))


def means_of(cars: Table, pack: Pack, own: Bools) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Shrunk means and counts by name, each without the vehicle's own sales."""
    sales, any_own = pack.sales, bool(own.any())
    zero = np.zeros(len(cars))

    def less(
        count: Floats, total: Floats, matches: Bools, after: Floats | float = 0.0
    ) -> tuple[Floats, Floats]:
        if not any_own:
            return count, total
        n, s = without_own(pack, own, matches, after)
        return np.maximum(count - n, 0.0), total - s

    everyone = np.ones((len(cars), len(sales)), dtype=np.bool_)
    of_series = everyone & ((sales.series == pack.series) & (sales.series >= 0))[None, :]
    of_brand = everyone & ((sales.brand == pack.brand) & (sales.brand >= 0))[None, :]
    mean: dict[str, Floats] = {"everything": zero + pack.everything}
    count: dict[str, Floats] = {}
    n, s = less(zero + pack.brand_sum[0], zero + pack.brand_sum[1], of_brand)
    mean["brand"], count["brand"] = shrunk(n, s, pack.everything, "brand"), n
    n, s = less(zero + pack.series_sum[0], zero + pack.series_sum[1], of_series)
    mean["series"], count["series"] = shrunk(n, s, mean["brand"], "series"), n
    for name, parent in (("year", "series"), ("model", "year"), ("gearbox", "series"), ("body", "series")):
        code = getattr(cars, name).astype(np.int32)
        matches = of_series & alike(code, getattr(sales, name))
        n, s = less(*pack.levels[name].of(code), matches)
        mean[name], count[name] = shrunk(n, s, mean[parent], name), n
    matches = of_brand & alike(cars.region, sales.region)
    n, s = less(*pack.levels["brand_region"].of(cars.region), matches)
    mean["brand_region"], count["brand_region"] = shrunk(n, s, mean["brand"], "brand_region"), n
    brand_mean = shrunk(pack.brand_sum[0], pack.brand_sum[1], pack.everything, "brand")
    series_mean = shrunk(pack.series_sum[0], pack.series_sum[1], brand_mean, "series")
    for name in ("region", "colour", "seller"):
        code = getattr(cars, name)
        matches = alike(code, getattr(sales, name))
        n, s = less(*pack.levels[name].of(code), matches, series_mean)
        mean[name] = shrunk(n, s, 0.0, name)
    return mean, count


def distances(cars: Table, pack: Pack) -> Floats:
    """(vehicles, sales): how unlike; 1 is about a year and a half of age, or 30,000 km."""
    sales = pack.sales

    def gap(name: str, scale: float) -> Floats:
        return np.asarray(
            np.abs(getattr(cars, name)[:, None] - getattr(sales, name)[None, :]) / scale, dtype=np.float64
        )

    def other(name: str, cost: float) -> Floats:
        unlike = getattr(cars, name)[:, None] != getattr(sales, name)[None, :]
        return np.asarray(cost * unlike, dtype=np.float64)

    def numbers(column: int, scale: float, unknown: float) -> Floats:
        difference = np.abs(cars.numbers[:, column][:, None] - sales.numbers[:, column][None, :]) / scale
        return np.where(np.isnan(difference), unknown, difference)

    total: Floats = (
        gap("age", 1.5)
        + gap("km", 3.0)
        + gap("anchor", 0.08)
        + gap("year", 2.0)
        + other("model", 0.6)
        + other("gearbox", 0.4)
        + other("series", 4.0)
        + other("brand", 2.0)
        + other("region", 0.15)
        + other("body", 0.1)
        + numbers(DISPLACEMENT, 0.4, 0.2)
        + numbers(CONDITION, 10.0, 0.0)
        + np.maximum(pack.cutoff - sales.day, 0)[None, :] / 300.0
    )
    if not np.any(cars.anchor != 0.0) and len(sales):
        total += np.abs(model_level(cars, pack)[:, None] - model_level(sales, pack)[None, :]) / 0.08
    return total


def model_level(table: Table, pack: Pack) -> Floats:
    """Mean residual of each row's model: stands in for the list price where a market has none."""
    parent = float(shrunk(pack.series_sum[0], pack.series_sum[1], pack.everything, "series"))
    return shrunk(*pack.levels["model"].of(table.model), parent, "model")


def comparables_of(cars: Table, pack: Pack, distance: Floats, curve: Floats) -> tuple[Floats, Ints]:
    """The nearest past sales of each vehicle, nearest first; ties by the older row."""
    n, there = len(cars), min(COMPARABLES, distance.shape[1])
    chosen = np.full((n, COMPARABLES), -1, dtype=np.int32)
    panel = np.zeros((n, COMPARABLES, len(COMPARABLE_COLUMNS)))
    if there == 0:
        return panel, chosen
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :there]
    far = np.take_along_axis(distance, nearest, axis=1)
    chosen[:, :there] = np.where(far < FAR, nearest, -1)
    sales, at = pack.sales, nearest

    def gap(name: str) -> Floats:
        return np.asarray(getattr(cars, name)[:, None] - getattr(sales, name)[at], dtype=np.float64)

    def same(name: str) -> Floats:
        mine = getattr(cars, name)[:, None]
        return np.asarray((mine == getattr(sales, name)[at]) & (mine >= 0), dtype=np.float64)

    def numbers(column: int, scale: float) -> Floats:
        gaps = (cars.numbers[:, column][:, None] - sales.numbers[:, column][at]) / scale
        return np.asarray(np.nan_to_num(gaps), dtype=np.float64)

    columns = (
        pack.residual[at], sales.y[at], gap("age"), gap("km") / 2.0, gap("anchor") * 5.0, gap("year"),
        numbers(DISPLACEMENT, 0.4), numbers(CONDITION, 10.0),
        same("model"), same("gearbox"), same("region"), same("series"), same("colour"), same("body"),
        np.log1p(np.maximum(pack.cutoff - sales.day, 0))[at] / 4.0, far / 2.0, (sales.y - pack.residual)[at],
        np.ones_like(far),
    )  # fmt: skip
    panel[:, :there] = np.stack(columns, axis=2) * (far < FAR)[:, :, None]
    return panel, chosen


def neighbour_means(pack: Pack, distance: Floats, panel: Floats) -> list[Floats]:
    """Kernel means of the residuals over all sales of the pack, and the nearest ones."""
    n = len(distance)
    found = []
    kernel = []
    if distance.shape[1]:
        for width in KERNELS:
            weight = np.exp(-np.minimum(distance, 60.0) / width) * (distance < FAR)
            found.append((weight * pack.residual).sum(axis=1) / (weight.sum(axis=1) + 1e-3))
            kernel.append(weight)
        tight_y = (kernel[0] * pack.sales.y).sum(axis=1) / (kernel[0].sum(axis=1) + 1e-3)
        amount = np.log1p(kernel[1].sum(axis=1))
    else:
        found, tight_y, amount = [np.zeros(n), np.zeros(n)], np.zeros(n), np.zeros(n)
    there = panel[:, :5, -1]
    several = np.maximum(there.sum(axis=1), 1.0)
    five = panel[:, :5, 0].sum(axis=1) / several
    spread = np.sqrt(((panel[:, :5, 0] - five[:, None]) ** 2 * there).sum(axis=1) / several)
    nearest = np.where(panel[:, 0, -1] > 0, panel[:, 0, 15] * 2.0, 20.0)
    return [*found, panel[:, 0, 0], five, spread, nearest, amount, tight_y, panel[:, 0, 1]]


def sequences(cars: Table, pack: Pack) -> tuple[Floats, Floats, list[Floats]]:
    """The 26 weeks before the cut-off, the regions, and the 8-week levels."""
    n = len(cars)
    segment = segment_of(cars, pack.edges)
    place = np.argmax(cars.region[:, None] == pack.regions[None, :], axis=1)
    inside = (cars.region[:, None] == pack.regions[None, :]).any(axis=1) & (cars.region >= 0)
    region = np.where(inside[:, None, None], pack.sequence_region[place], 0.0)
    parts = [
        np.broadcast_to(pack.sequence_all, (n, SEQUENCE_WEEKS, 2)),
        pack.sequence_segment[segment],
        np.broadcast_to(pack.sequence_brand, (n, SEQUENCE_WEEKS, 2)),
        np.broadcast_to(pack.sequence_series, (n, SEQUENCE_WEEKS, 2)),
        region,
    ]
    sequence = np.concatenate(parts, axis=2)
    panel = np.zeros((n, REGIONS, 4))
    panel[:, : len(pack.region_panel), :3] = pack.region_panel
    panel[np.arange(n), place, 3] = inside
    levels = [part[:, -LEVEL_WEEKS:, 0].mean(axis=1) for part in parts]
    return sequence, panel, levels


def features_of(cars: Table, pack: Pack) -> Features:
    """Features of vehicles that are all of the pack's series (or of none that it knows)."""
    condition = condition_of(cars, pack.centre)
    curve = basis(cars, float(pack.centre[0]), condition) @ pack.curve
    columns = head_columns(cars, pack.centre[1:3])
    head = columns @ pack.head
    own = own_evidence(cars, pack)
    mean, count = means_of(cars, pack, own)
    distance = np.where(own, FAR, distances(cars, pack))
    panel, chosen = comparables_of(cars, pack, distance, curve)
    sequence, regions, levels = sequences(cars, pack)
    market = [
        *(mean[name] for name in MEANS),
        *(np.log1p(count[name]) for name in COUNTED),
        *neighbour_means(pack, distance, panel),
        *levels,
    ]
    moment = whole_years(cars.day.astype(np.float64))
    angle = 2.0 * np.pi * (moment % 1.0)
    missing = np.isnan(cars.numbers)
    car = np.column_stack(
        [
            curve, head, cars.anchor, cars.age, cars.km, cars.km_missing, cars.km / (cars.age + 0.5),
            np.nan_to_num(moment - cars.year, nan=5.0), np.sin(angle), np.cos(angle),
            np.where(missing, pack.fill, cars.numbers), missing,
        ]
    )  # fmt: skip
    return Features(
        car=car.astype(np.float32),
        market=np.stack(market, axis=1).astype(np.float32),
        comparables=panel.astype(np.float32),
        sequence=sequence.astype(np.float32),
        regions=regions.astype(np.float32),
        head=np.concatenate([columns, np.broadcast_to(pack.head, columns.shape)], axis=1).astype(np.float32),
        chosen=chosen,
    )
