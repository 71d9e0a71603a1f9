"""What the market knew at the start of one week: base curve, shrunk means, weekly sequence, regions.

Everything here is made from rows posted before the cut-off (the week's Monday less the label lag) and from
nothing else. Of a car that was listed more than once only the last visible listing counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.valuation.curve import basis, fit_curve, fit_heads, head_columns
from models.valuation.table import NUMBERS, Bools, Floats, Ints, Table

WEEK: Final = 7
MONDAY: Final = 4
"""1970-01-05, the first Monday, in days since 1970-01-01."""

LABEL_LAG_DAYS: Final = 14
"""A price is known to be the last asked only once the listing is withdrawn: median 9 days after it was
posted."""

BASE_HALF_LIFE: Final = 365.0
MEAN_HALF_LIFE: Final = 150.0
"""Days in which a sale's weight halves, in the base curve and in a mean."""

IMPLAUSIBLE: Final = 1.2
"""A sale that lies further than this (ln) from the base curve is no evidence: a slip of the keyboard, or
poison."""

SEQUENCE_WEEKS: Final = 26
REGIONS: Final = 12
"""Regions the network attends to: the largest by visible sales. In the Chinese file they hold 91 % of all
sales."""

SEGMENTS: Final = 6
LEVEL_WEEKS: Final = 8
"""Weeks of an index level."""

WEEK_SHRINK: Final = 10.0
"""Sales that zero weighs in the mean of one week."""

SHRINK: Final = {
    "brand": 10.0,
    "series": 5.0,
    "year": 3.0,
    "model": 2.0,
    "gearbox": 3.0,
    "body": 5.0,
    "brand_region": 10.0,
    "region": 20.0,
    "colour": 50.0,
    "seller": 20.0,
}
"""Sales that its parent weighs in a mean (year, model, gearbox, body: within the series)."""

CONDITION: Final = NUMBERS.index("condition")


def monday(day: Ints) -> Ints:
    """The Monday of each day's week."""
    return (day - (day - MONDAY) % WEEK).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Week:
    """The market as it stood on a Monday, from rows posted before `cutoff`. `residual` = y less base curve
    and brand line."""

    monday: int
    cutoff: int
    rows: Table
    residual: Floats
    weight: Floats
    curve: Floats
    heads: Floats
    centre: Floats
    """Anchor, mileage, age and condition the curve and the lines are centred on, and the spread of the
    condition."""
    fill: Floats
    edges: Floats
    brand_mean: Floats
    series_mean: Floats
    everything: float
    sequence_all: Floats
    sequence_segment: Floats
    regions: Ints
    sequence_region: Floats
    region_panel: Floats
    segment: Ints


def last_visible(table: Table) -> Ints:
    """For each row the day on which the same car was listed again (a far day where it never was). Rows sorted
    by day."""
    order = np.lexsort((np.arange(len(table)), table.car))
    again = np.full(len(table), np.iinfo(np.int32).max, dtype=np.int32)
    same = table.car[order][1:] == table.car[order][:-1]
    again[order[:-1][same]] = table.day[order][1:][same]
    return again


def sums(code: Ints, weight: Floats, value: Floats, size: int) -> tuple[Floats, Floats]:
    """(weighted count, weighted sum) by code; rows without a code are left out."""
    known = code >= 0
    return (
        np.bincount(code[known], weight[known], size).astype(np.float64),
        np.bincount(code[known], (weight * value)[known], size).astype(np.float64),
    )


def by_week(code: Ints, week: Ints, value: Floats, size: int) -> Floats:
    """(size, weeks, 2): shrunk mean and ln(1 + n) of each code and week."""
    known = (code >= 0) & (week >= 0)
    key = code[known] * SEQUENCE_WEEKS + week[known]
    count = np.bincount(key, minlength=size * SEQUENCE_WEEKS).astype(np.float64)
    total = np.bincount(key, value[known], size * SEQUENCE_WEEKS)
    shape = (size, SEQUENCE_WEEKS)
    return np.stack([(total / (count + WEEK_SHRINK)).reshape(shape), np.log1p(count).reshape(shape)], axis=2)


def condition_of(table: Table, centre: Floats) -> Floats:
    """Condition grade, centred and scaled; 0 where there is none."""
    grade = (table.numbers[:, CONDITION] - centre[3]) / centre[4]
    return np.where(np.isnan(grade), 0.0, grade)


def segment_of(table: Table, edges: Floats) -> Ints:
    """0..5: the sextile of the anchor price (of the age, where a market has no anchor)."""
    value = table.anchor if np.any(table.anchor != 0.0) else -table.age
    return np.searchsorted(edges, value).astype(np.int32)


def recent_week(day: Ints, cutoff: int) -> Ints:
    """Index 0..25 of the week before the cut-off, -1 where the sale is older."""
    week = (day - (cutoff - SEQUENCE_WEEKS * WEEK)) // WEEK
    return np.where(week >= 0, week, -1).astype(np.int32)


def region_view(rows: Table, after: Floats, cutoff: int, regions: Ints) -> Floats:
    """(12, 3): level of the last 8 weeks, its change against the 8 before, ln(1 + n)."""
    panel = np.zeros((REGIONS, 3))
    days = (cutoff - rows.day) // WEEK
    for place, region in enumerate(regions):
        here = rows.region == region
        late, early = here & (days < LEVEL_WEEKS), here & (days >= LEVEL_WEEKS) & (days < 2 * LEVEL_WEEKS)
        level, before = (after[part].sum() / (part.sum() + SHRINK["region"]) for part in (late, early))
        panel[place] = level, level - before, np.log1p(late.sum())
    return panel


def mean_or(values: Floats, other: float) -> float:
    """Mean without gaps, or `other` where all is a gap."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else other


def spread_or_one(values: Floats) -> float:
    """Standard deviation without gaps, at least 1e-6, or 1."""
    there = values[~np.isnan(values)]
    return max(float(there.std()), 1e-6) if len(there) > 1 else 1.0


def week_state(
    table: Table, again: Ints, start: int, *, head: bool = True, lag: int = LABEL_LAG_DAYS
) -> Week:
    """The state of the week that begins on day `start`. `table` is sorted by day; later rows are never looked
    at."""
    cutoff = start - lag
    rows = table.take(slice(0, int(np.searchsorted(table.day, cutoff))))
    keep = again[: len(rows)] >= cutoff
    rows = rows.take(keep & ~np.isnan(rows.y))
    grade = rows.numbers[:, CONDITION]
    centre = np.array(
        [
            mean_or(rows.anchor, 0.0),
            mean_or(rows.km, 5.0),
            mean_or(rows.age, 5.0),
            mean_or(grade, 0.0),
            spread_or_one(grade),
        ]
    )
    # What a pack holds is float32: the state is computed from the same rounded numbers.
    centre = centre.astype(np.float32).astype(np.float64)
    old = (cutoff - rows.day).astype(np.float64)
    x = basis(rows, centre[0], condition_of(rows, centre))
    curve = fit_curve(x, rows.y, 0.5 ** (old / BASE_HALF_LIFE)).astype(np.float32).astype(np.float64)
    residual = rows.y - x @ curve
    plausible = np.abs(residual) < IMPLAUSIBLE
    rows, residual, old = rows.take(plausible), residual[plausible], old[plausible]
    weight = 0.5 ** (old / MEAN_HALF_LIFE)
    brands = 1 + max(int(table.brand.max(initial=-1)), 0)
    heads = np.zeros((brands, 3))
    if head and len(rows):
        columns = head_columns(rows, centre[1:3])
        heads = fit_heads(columns, residual, 0.5 ** (old / BASE_HALF_LIFE), rows.brand, brands)
        heads = heads.astype(np.float32).astype(np.float64)
        own = np.where((rows.brand >= 0)[:, None], heads[rows.brand], 0.0)
        residual = residual - (columns * own).sum(axis=1)
    return summarise(table, rows, residual, weight, (start, cutoff), curve, heads, centre)


def summarise(
    table: Table,
    rows: Table,
    residual: Floats,
    weight: Floats,
    span: tuple[int, int],
    curve: Floats,
    heads: Floats,
    centre: Floats,
) -> Week:
    """Means, sequences and regions of the visible rows."""
    start, cutoff = span
    everything = float((weight * residual).sum() / (weight.sum() + 1.0))
    count, total = sums(rows.brand, weight, residual, len(heads))
    brand_mean = (total + SHRINK["brand"] * everything) / (count + SHRINK["brand"])
    series_count = 1 + max(int(table.series.max(initial=-1)), 0)
    parent = np.full(series_count, everything)
    known = rows.series >= 0
    parent[rows.series[known]] = np.where(rows.brand >= 0, brand_mean[rows.brand], everything)[known]
    count, total = sums(rows.series, weight, residual, series_count)
    series_mean = (total + SHRINK["series"] * parent) / (count + SHRINK["series"])
    after = residual - np.where(known, series_mean[rows.series], everything)
    value = rows.anchor if np.any(rows.anchor != 0.0) else -rows.age
    edges = (
        np.quantile(value, np.arange(1, SEGMENTS) / SEGMENTS).astype(np.float32).astype(np.float64)
        if len(rows)
        else np.zeros(SEGMENTS - 1)
    )
    segment = segment_of(rows, edges)
    week = recent_week(rows.day, cutoff)
    volume = np.bincount(rows.region[rows.region >= 0], minlength=REGIONS)
    regions = np.argsort(-volume, kind="stable")[:REGIONS].astype(np.int32)
    place = np.full(max(len(volume), 1), -1, dtype=np.int32)
    place[regions] = np.arange(len(regions))
    regions = np.where(volume[regions] > 0, regions, -2).astype(np.int32)
    where = np.where(rows.region >= 0, place[rows.region], -1).astype(np.int32)
    return Week(
        monday=start,
        cutoff=cutoff,
        rows=rows,
        residual=residual,
        weight=weight,
        curve=curve,
        heads=heads,
        centre=centre,
        fill=np.array([mean_or(column, 0.0) for column in rows.numbers.T], dtype=np.float32).astype(
            np.float64
        ),
        edges=edges,
        brand_mean=brand_mean,
        series_mean=series_mean,
        everything=everything,
        sequence_all=by_week(np.zeros(len(rows), np.int32), week, after, 1)[0],
        sequence_segment=by_week(segment, week, after, SEGMENTS),
        regions=regions,
        sequence_region=by_week(where, week, after, REGIONS),
        region_panel=region_view(rows, after, cutoff, regions),
        segment=segment,
    )


def visible(table: Table, again: Ints, cutoff: int) -> Bools:
    """Which rows the state of a cut-off may use: posted before it, the car's last listing before it."""
    mask: Bools = (table.day < cutoff) & (again >= cutoff)
    return mask
