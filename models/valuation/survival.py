"""How long a car stands before it is sold, and by how much its price is cut meanwhile: by price band.

Kaplan and Meier (1958): of the cars still standing on a day, the share sold on it. A car that was withdrawn
unsold counts until the day it was withdrawn. Ranges: Greenwood's variance on the log-log scale. All of it is
measured on ordinary sales of stores; no line of it is a distressed sale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from models.errors import ValuationError
from models.valuation.metrics import band_of
from models.valuation.table import Bools, Floats, Ints

DAYS: Final = (30, 60, 90)
"""Days within which a sale is asked for."""

RIPE_DAYS: Final = 110
"""Listings of a file's last days are left out: it holds only cars last priced before its end, so its late
listings
lean to quick sales. 95 % of the sold are sold within 76 days."""

FEW: Final = 100
"""Listings below which a band borrows the whole market's figures, and says so."""

Z: Final = 1.959964
"""Normal quantile of 95 % ranges."""

MAX_CUT: Final = 0.9
"""A history whose price falls by more is a slip of the keyboard and is left out."""


@dataclass(frozen=True, slots=True)
class Histories:
    """One car each. `listed`: day; `price`: first price; `days`: until sold or withdrawn; `cut`: share the
    price
    fell in all (below 0: it rose)."""

    listed: Ints
    price: Floats
    days: Ints
    sold: Bools
    cut: Floats

    def __len__(self) -> int:
        return len(self.listed)

    def take(self, rows: Bools) -> Histories:
        """The given rows."""
        return Histories(
            self.listed[rows], self.price[rows], self.days[rows], self.sold[rows], self.cut[rows]
        )


def kaplan_meier(days: Ints, sold: Bools, at: int) -> tuple[float, float, float]:
    """P(sold within `at` days) and its 95 % range. Cars sold on a day leave after those withdrawn later that
    day.

    (nan, 0, 1) where no car is left standing before `at` without the curve having reached the end.
    """
    survival, variance = 1.0, 0.0
    for day in np.unique(days[sold & (days <= at)]):
        standing = int((days >= day).sum())
        gone = int((sold & (days == day)).sum())
        survival *= 1.0 - gone / standing
        if gone < standing:
            variance += gone / (standing * (standing - gone))
    if not len(days) or (survival > 0.0 and int(days.max()) < at):
        return math.nan, 0.0, 1.0
    if survival in (0.0, 1.0):
        slack = 1.0 - 0.05 ** (1.0 / len(days))
        return 1.0 - survival, max(0.0, 1.0 - survival - slack), min(1.0, 1.0 - survival + slack)
    wide = Z * math.sqrt(variance) / math.log(survival)
    low, high = survival ** math.exp(wide), survival ** math.exp(-wide)
    return 1.0 - survival, 1.0 - max(low, high), 1.0 - min(low, high)


def quantile_range(values: Floats, share: float) -> tuple[float, float, float]:
    """A quantile and its 95 % range by order statistics (binomial)."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan
    ordered = np.sort(values)
    half = Z * math.sqrt(n * share * (1.0 - share))
    low = max(math.floor(n * share - half) - 1, 0)
    high = min(math.ceil(n * share + half), n - 1)
    return float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high])


@dataclass(frozen=True, slots=True)
class Standing:
    """One band: P(sold within 30, 60, 90 days) and price cuts, each (value, low, high).

    `own`: measured on the band, not borrowed. `at_least`: shares sold if no withdrawn car ever sells.
    """

    name: str
    n: int
    sold: int
    own: bool
    within: tuple[tuple[float, float, float], ...]
    at_least: tuple[float, ...]
    mean_cut: float
    cut_p90: tuple[float, float, float]
    cut_p95: tuple[float, float, float]

    def as_json(self) -> dict[str, object]:
        """For the table's file."""
        return {
            "band": self.name, "n": self.n, "sold": self.sold, "own": self.own,
            "sold_within": {str(d): _triple(w) for d, w in zip(DAYS, self.within, strict=True)},
            "sold_at_least": {str(d): round(s, 4) for d, s in zip(DAYS, self.at_least, strict=True)},
            "mean_cut": round(self.mean_cut, 4),
            "cut_p90": _triple(self.cut_p90), "cut_p95": _triple(self.cut_p95),
        }  # fmt: skip


def _triple(values: tuple[float, float, float]) -> list[float | None]:
    return [None if math.isnan(v) else round(v, 4) for v in values]


@dataclass(frozen=True, slots=True)
class SaleTable:
    """What store histories say, by band of the first price. `used` of `total`; `until`: last listing day
    used."""

    currency: str
    edges: tuple[float, ...]
    whole: Standing
    bands: tuple[Standing, ...]
    total: int
    used: int
    until: int
    synthetic: bool = False

    def of(self, price: float) -> Standing:
        """The band of a price."""
        return self.bands[int(band_of(np.array([price]), self.edges)[0])]

    def as_json(self) -> dict[str, object]:
        """The table as it stands in its file."""
        return {
            "format": FORMAT, "currency": self.currency, "edges": list(self.edges),
            "synthetic": self.synthetic,
            "total": self.total, "used": self.used, "until": self.until,
            "whole": self.whole.as_json(), "bands": [band.as_json() for band in self.bands],
            "data": "times and cuts are measured on ordinary store listings",
            "assumption": "a car withdrawn unsold would have sold like those that stayed (sold_at_least: "
            "without that); no forced sale was observed: that it costs what the largest cuts cost is assumed",
        }  # fmt: skip


FORMAT: Final = 1


def sale_table(
    histories: Histories,
    edges: Sequence[float],
    currency: str,
    names: Sequence[str],
    end: int,
    *,
    synthetic: bool = False,
) -> SaleTable:
    """The table of a file whose last listing or price is of day `end`. Raises ValuationError: too few
    histories."""
    until = end - RIPE_DAYS
    ripe = histories.take((histories.listed <= until) & (histories.cut <= MAX_CUT) & (histories.days >= 0))
    if len(ripe) < FEW:
        raise ValuationError(
            f"{len(ripe)} of {len(histories)} histories are old enough to be judged, {FEW} are needed; "
            "give a file that covers a longer time"
        )
    whole = standing("all prices", ripe, own=True)
    band, found = band_of(ripe.price, edges), []
    for number, name in enumerate(names):
        part = ripe.take(band == number)
        if len(part) >= FEW:
            found.append(standing(name, part, own=True))
        else:
            found.append(replace(whole, name=name, n=len(part), sold=int(part.sold.sum()), own=False))
    return SaleTable(currency, tuple(edges), whole, tuple(found), len(histories), len(ripe), until, synthetic)


def standing(name: str, part: Histories, *, own: bool) -> Standing:
    """The figures of some histories. Cuts: of the cars that were sold."""
    cuts = part.cut[part.sold]
    return Standing(
        name, len(part), int(part.sold.sum()), own,
        tuple(kaplan_meier(part.days, part.sold, days) for days in DAYS),
        tuple(float((part.sold & (part.days <= days)).mean()) for days in DAYS),
        float(cuts.mean()) if len(cuts) else math.nan,
        quantile_range(cuts, 0.90), quantile_range(cuts, 0.95),
    )  # fmt: skip


def read_table(raw: Mapping[str, object]) -> SaleTable:
    """A table from its JSON. Raises ValuationError: another format, or damaged."""
    try:
        if raw["format"] != FORMAT:
            raise ValuationError("the sale table has another format; run `holdfast train forced-sale` again")
        edges = tuple(float(str(e)) for e in _list(raw["edges"]))
        bands = tuple(_standing(band) for band in _list(raw["bands"]))
        if len(bands) != len(edges) + 1 or any(b <= a for a, b in pairwise(edges)):
            raise ValueError("bands and edges disagree")
        return SaleTable(
            str(raw["currency"]), edges, _standing(raw["whole"]), bands,
            int(str(raw["total"])), int(str(raw["used"])), int(str(raw["until"])), bool(raw["synthetic"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValuationError(
            f"the sale table is damaged ({error}); run `holdfast train forced-sale` again"
        ) from None


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _standing(value: object) -> Standing:
    if not isinstance(value, dict):
        raise TypeError("a band is missing")

    def triple(raw: object) -> tuple[float, float, float]:
        a, b, c = (math.nan if v is None else float(str(v)) for v in _list(raw))
        if any(not -10.0 <= v <= 1.0 for v in (a, b, c) if not math.isnan(v)):
            raise ValueError("a share outside its range")
        return a, b, c

    within = tuple(triple(value["sold_within"][str(d)]) for d in DAYS)
    at_least = tuple(float(value["sold_at_least"][str(d)]) for d in DAYS)
    return Standing(
        str(value["band"]), int(value["n"]), int(value["sold"]), bool(value["own"]), within, at_least,
        float(value["mean_cut"]), triple(value["cut_p90"]), triple(value["cut_p95"]),
    )  # fmt: skip
