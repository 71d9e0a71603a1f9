"""How much a lender takes off: a lower bound of the price that holds its coverage, week by week.

The bound is that of `conformal`, recalibrated each week on the labels that became visible in the last eight.
The haircut is what it lies below the point. It is the smallest that held its coverage on those labels: the
next higher order statistic of the scores would have been right too seldom. `watch` counts what became of it.

Days are days since 1970-01-01.
Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World (2005), section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.errors import ValuationError
from models.valuation import conformal, metrics
from models.valuation.conformal import COVERAGE, WINDOW_DAYS, Calibration
from models.valuation.table import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Policy:
    """What the bound promises and how it is watched.

    `coverage`: share of cars worth at least their bound. `edges`: prices (currency) between the bands.
    `rate`: step of the adaptive level (0 switches it off). `watch_days`: days whose labels are judged
    together. `least`: labels below which nothing is judged. `significance`: of the two-sided binomial test,
    shared out over the bands. `raise_after`, `clear_after`: weeks in a row before a notice is raised or taken
    back.
    """

    coverage: float = COVERAGE
    edges: tuple[float, ...] = ()
    rate: float = 0.1
    watch_days: int = 28
    least: int = 80
    significance: float = 0.01
    raise_after: int = 2
    clear_after: int = 2

    def __post_init__(self) -> None:
        if not 0.5 <= self.coverage <= 0.99:
            raise ValuationError(f"a coverage of {self.coverage:g} cannot be held; choose 0.5 to 0.99")
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)) or any(
            e <= 0 or not math.isfinite(e) for e in self.edges
        ):
            raise ValuationError("the price bands' edges must be positive and rise")
        if not 0.0 < self.significance < 0.5 or self.least < 1 or min(self.raise_after, self.clear_after) < 1:
            raise ValuationError("significance lies between 0 and 0.5, least and weeks are at least 1")

    @property
    def tail(self) -> float:
        """Share of cars that may fetch less than their bound."""
        return 1.0 - self.coverage

    @property
    def bands(self) -> int:
        """How many price bands there are."""
        return len(self.edges) + 1

    def band(self, value: Floats) -> Ints:
        """0..bands-1: the band of each predicted price; one edge belongs to the band above it."""
        found: Ints = metrics.band_of(value, self.edges).astype(np.int32)
        return found

    def band_name(self, band: int) -> str:
        """The band in words: "below 30,000", "30,000 to 50,000", "400,000 and more"."""
        if not self.edges:
            return "all prices"
        if band == 0:
            return f"below {self.edges[0]:,.0f}"
        if band == len(self.edges):
            return f"{self.edges[-1]:,.0f} and more"
        return f"{self.edges[band - 1]:,.0f} to {self.edges[band]:,.0f}"


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions and what came of them. `made`: day predicted for; `visible`: day from which the label was
    known.

    `value` is the predicted price (currency); `point`, `low` (10 % quantile) and `y` are ln of the price over
    the anchor, as the network gives them.
    """

    made: Ints
    visible: Ints
    value: Floats
    point: Floats
    low: Floats
    y: Floats

    def __post_init__(self) -> None:
        columns = (self.visible, self.value, self.point, self.low, self.y)
        if any(len(column) != len(self.made) for column in columns):
            raise ValuationError("scored predictions need columns of one length")

    def __len__(self) -> int:
        return len(self.made)

    def take(self, rows: Ints | Bools) -> Scored:
        """The given rows."""
        return Scored(
            self.made[rows],
            self.visible[rows],
            self.value[rows],
            self.point[rows],
            self.low[rows],
            self.y[rows],
        )


def calibrate(policy: Policy, past: Scored, monday: int, tail: float | None = None) -> Calibration | None:
    """The calibration of the week that begins on `monday`, from labels visible before it; None: too few."""
    alpha = policy.tail if tail is None else tail
    recent = past.take((past.visible < monday) & (past.visible >= monday - WINDOW_DAYS))
    return conformal.calibrate(
        conformal.scores(recent.y, recent.point, recent.low),
        recent.value,
        policy.edges,
        coverage=1.0 - alpha,
    )


def bounds_of(calibration: Calibration, scored: Scored) -> Floats:
    """ln of what each car is worth at least, as `Scored.y`; never above the point."""
    found = conformal.bound(calibration, scored.value, scored.point, scored.low)
    lower: Floats = np.minimum(found, scored.point)
    return lower
