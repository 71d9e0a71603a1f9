"""The market pack of one series and week: all that a node needs to compute the features of one of its
vehicles.

A pack is cut out of the state of a week (`cut`) and holds aggregates and the series' recent sales without
number plates, VINs or keys; a sale's `tag` is 32 bits of the keyed hash of its car, so that whoever holds the
key can leave a car out of its own evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.valuation.state import (
    Week,
    by_week,
    recent_week,
)
from models.valuation.table import Floats, Ints, Table

FEW: Final = 24
"""A series with fewer sales borrows from its brand, a brand with fewer from the whole market."""

BORROWED: Final = 400
"""Most recent sales that are borrowed."""

MAX_ROWS: Final = 1_600
"""Most recent sales of a series in a pack: keeps it under 200 KB."""

MAX_CODES: Final = 400
"""Most frequent regions, colours or sellers in a pack."""

LEVELS: Final = ("year", "model", "gearbox", "body", "brand_region", "region", "colour", "seller")


@dataclass(frozen=True, slots=True)
class Level:
    """Weighted count and sum of residuals by code, sorted by code."""

    codes: Ints
    count: Floats
    total: Floats

    def of(self, code: Ints) -> tuple[Floats, Floats]:
        """(count, total) of each code; 0 where the code is not in the level."""
        if not len(self.codes):
            return np.zeros(len(code)), np.zeros(len(code))
        at = np.minimum(np.searchsorted(self.codes, code), len(self.codes) - 1)
        known = self.codes[at] == code
        return np.where(known, self.count[at], 0.0), np.where(known, self.total[at], 0.0)


@dataclass(frozen=True, slots=True)
class Pack:
    """Every float is float32 in value (held as float64), so that encoding loses nothing."""

    monday: int
    cutoff: int
    brand: int
    series: int
    curve: Floats
    head: Floats
    centre: Floats
    fill: Floats
    edges: Floats
    everything: float
    brand_sum: Floats
    series_sum: Floats
    """(count, total) of brand and series."""
    levels: dict[str, Level]
    sales: Table
    residual: Floats
    sequence_all: Floats
    sequence_segment: Floats
    sequence_brand: Floats
    sequence_series: Floats
    regions: Ints
    sequence_region: Floats
    region_panel: Floats


def rounded(values: Any) -> Floats:
    """float64 that float32 holds exactly."""
    found: Floats = np.asarray(values, dtype=np.float32).astype(np.float64)
    return found


def level(code: Ints, weight: Floats, value: Floats) -> Level:
    """Sums by code of the rows that have one."""
    known = code >= 0
    found, at = np.unique(code[known], return_inverse=True)
    count = np.bincount(at, weight[known], len(found))
    total = np.bincount(at, (weight * value)[known], len(found))
    kept = np.sort(np.argsort(-count, kind="stable")[:MAX_CODES])
    return Level(found[kept].astype(np.int32), rounded(count[kept]), rounded(total[kept]))


class Cutter:
    """Cuts packs out of one week; what several series share is computed once."""

    def __init__(self, week: Week) -> None:
        rows = week.rows
        self.week = week
        known = rows.series >= 0
        self._after = week.residual - np.where(known, week.series_mean[rows.series], week.everything)
        self._recent = recent_week(rows.day, week.cutoff)
        self._by_series = self._index(rows.series)
        self._by_brand = self._index(rows.brand)
        self._shared = {
            name: level(getattr(rows, name), week.weight, self._after)
            for name in ("region", "colour", "seller")
        }
        self._brands: dict[int, tuple[Floats, Level, Floats]] = {}
        self._newest = np.arange(max(len(rows) - BORROWED, 0), len(rows))

    @staticmethod
    def _index(code: Ints) -> dict[int, Ints]:
        order = np.argsort(code, kind="stable").astype(np.int32)
        found, start = np.unique(code[order], return_index=True)
        return (
            {int(c): part for c, part in zip(found, np.split(order, start[1:]), strict=True) if c >= 0}
            if len(order)
            else {}
        )

    def _brand(self, brand: int) -> tuple[Floats, Level, Floats]:
        if brand not in self._brands:
            week, at = self.week, self._by_brand.get(brand, np.zeros(0, np.int32))
            weight, residual = week.weight[at], week.residual[at]
            self._brands[brand] = (
                rounded(np.array([weight.sum(), (weight * residual).sum()])),
                level(week.rows.region[at], weight, residual),
                rounded(by_week(np.zeros(len(at), np.int32), self._recent[at], self._after[at], 1)[0]),
            )
        return self._brands[brand]

    def _evidence(self, brand: int, own: Ints) -> Ints:
        """Rows of the week that go into the pack: the series', then its brand's, then anybody's most recent
        ones."""
        chosen = own[-MAX_ROWS:]
        for others in (self._by_brand.get(brand, np.zeros(0, np.int32))[-BORROWED:], self._newest):
            if len(chosen) < FEW:
                chosen = np.union1d(chosen, others)
        return chosen.astype(np.int32)

    def cut(self, brand: int, series: int) -> Pack:
        """The pack of a series (`NONE` for one that was never seen) of a brand (`NONE` likewise)."""
        week, rows = self.week, self.week.rows
        own = self._by_series.get(series, np.zeros(0, np.int32))
        weight, residual = week.weight[own], week.residual[own]
        brand_sum, brand_region, sequence_brand = self._brand(brand)
        chosen = self._evidence(brand, own)
        levels = {
            name: level(getattr(rows, name)[own].astype(np.int32), weight, residual)
            for name in ("year", "model", "gearbox", "body")
        }
        return Pack(
            monday=week.monday,
            cutoff=week.cutoff,
            brand=brand,
            series=series,
            curve=week.curve,
            head=week.heads[brand] if 0 <= brand < len(week.heads) else np.zeros(3),
            centre=week.centre,
            fill=week.fill,
            edges=week.edges,
            everything=float(np.float32(week.everything)),
            brand_sum=brand_sum,
            series_sum=rounded(np.array([weight.sum(), (weight * residual).sum()])),
            levels={**levels, "brand_region": brand_region, **self._shared},
            sales=round_table(rows.take(chosen)),
            residual=rounded(week.residual[chosen]),
            sequence_all=rounded(week.sequence_all),
            sequence_segment=rounded(week.sequence_segment),
            sequence_brand=sequence_brand,
            sequence_series=rounded(
                by_week(np.zeros(len(own), np.int32), self._recent[own], self._after[own], 1)[0]
            ),
            regions=week.regions,
            sequence_region=rounded(week.sequence_region),
            region_panel=rounded(week.region_panel),
        )


def round_table(table: Table) -> Table:
    """The same rows with every float as float32 holds it."""
    return Table(
        table.day,
        table.car,
        table.brand,
        table.series,
        table.model,
        table.gearbox,
        table.region,
        table.colour,
        table.seller,
        table.body,
        rounded(table.age),
        rounded(table.km),
        table.km_missing,
        rounded(table.year),
        rounded(table.anchor),
        rounded(table.y),
        rounded(table.numbers),
    )
