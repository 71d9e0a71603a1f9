"""`holdfast evaluate valuation`: a valuation scored on sales it could not have seen."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from models.errors import ModelError
from models.runtime.baselines import boosted, brand_mileage, straight_line
from models.runtime.market_data import LEAST_AUCTION, Market
from models.runtime.refit import Fitted, quantiles_of, refit
from models.runtime.train_network import Fit, Training, fit_network
from models.valuation.conformal import WINDOW_DAYS, bound, calibrate, scores, window
from models.valuation.dataset import Dataset, fit_rows, score_rows
from models.valuation.metrics import (
    band_names,
    band_of,
    bound_figures,
    by_group,
    paired_difference,
    point_figures,
)
from models.valuation.table import NONE, NUMBERS, Floats, Ints

Mode = Literal["frozen", "rolling"]
POINT: Final = 3
LOW: Final = 1
"""Columns of the quantiles: the point, and the 10 % quantile that the bound is built on."""
GROUPS: Final = 15
"""Largest regions and brands told apart; the others are one group."""
ELECTRIC: Final = NUMBERS.index("electric")


@dataclass(slots=True)
class Plan:
    """What to evaluate. Days count from 1970-01-01; `test_to` is the last one."""

    test_from: int
    test_to: int
    mode: Mode = "frozen"
    training: Training = field(default_factory=Training)
    baselines: bool = True
    bound: bool = True
    threads: int = 2


@dataclass(slots=True)
class Scored:
    """Everything known of the scored cars: rows, prices, values, quantiles, bounds (NaN before there are
    scores enough)."""

    rows: Ints
    price: Floats
    value: Floats
    quantiles: Floats
    low: Floats
    others: dict[str, Floats]
    last: Fitted
    weekly: list[dict[str, Any]]


class Steps:
    """Progress with the time left, told at most every few seconds."""

    def __init__(
        self, total: int, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.tell, self.clock = total, tell, clock
        self.done, self.start, self.told = 0, clock(), clock()

    def within(self, what: str) -> Callable[[int, int, float], None]:
        """A progress function of one step's own parts."""

        def inner(part: int, parts: int, loss: float) -> None:
            self.say(f"{what}: {part}/{parts}, loss {loss:.4f}", self.done + part / parts)

        return inner

    def say(self, what: str, at: float, *, always: bool = False) -> None:
        """One line, if the last one is five seconds old."""
        now = self.clock()
        if not always and now - self.told < 5.0:
            return
        self.told = now
        left = (now - self.start) / max(at, 1e-3) * (self.total - at)
        self.tell(f"[{at:.1f}/{self.total}] {what}; {left / 60:.1f} min left")

    def step(self, what: str) -> None:
        """One step is over."""
        self.done += 1
        self.say(what, self.done, always=True)


def mondays(plan: Plan) -> list[int]:
    """Mondays of the weeks in the test span."""
    first = plan.test_from - (plan.test_from - 4) % 7
    return list(range(first, plan.test_to + 1, 7))


def rows_to_score(market: Market, data: Dataset, start: int, end: int) -> Ints:
    """First-seen cars in [start, end]; auction sales above 2,000 alone."""
    rows = score_rows(data, start, end)
    if market.currency == "USD":
        price = np.exp(market.table.y + market.table.anchor)
        rows = rows[price[rows] > LEAST_AUCTION]
    return rows


def evaluate(
    market: Market, data: Dataset, plan: Plan, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Scored]:
    """All figures, and the scored cars. Raises ModelError where there is nothing to score or too little to
    fit."""
    rows = rows_to_score(market, data, plan.test_from, plan.test_to)
    if not len(rows):
        raise ModelError(
            "no first-seen car was posted in the test span; choose other dates or give more files"
        )
    weeks = mondays(plan)
    refits = [max(week, plan.test_from) for week in weeks] if plan.mode == "rolling" else [plan.test_from]
    steps = Steps(len(refits) + int(plan.bound) + (len(refits) if plan.baselines else 0), tell)
    past_rows, past = calibration_scores(market, data, plan, steps)
    quantiles = np.zeros((len(rows), 7))
    others: dict[str, Floats] = {}
    last: Fitted | None = None
    for number, before in enumerate(refits):
        here = np.flatnonzero(part_of(market, rows, weeks, number, plan.mode))
        last = refit(data, before, plan.training, lag=market.lag, progress=steps.within(f"fit {number + 1}"))
        quantiles[here] = quantiles_of(last, data, rows[here])
        steps.step(f"network of {np.datetime64(before, 'D')} fitted, exported and scored")
        if plan.baselines and len(here):
            for name, found in trees(market, data, plan, before, rows[here]).items():
                others.setdefault(name, np.full(len(rows), np.nan))[here] = found
            steps.step("baselines")
    if last is None:
        raise ModelError("nothing was fitted")
    anchor = market.table.anchor[rows]
    price, value = np.exp(market.table.y[rows] + anchor), np.exp(quantiles[:, POINT] + anchor)
    low, weekly = bounds(market, rows, quantiles, (past_rows, past), weeks)
    scored = Scored(rows, price, value, quantiles, low, others, last, weekly)
    return figures(market, data, plan, scored), scored


def part_of(market: Market, rows: Ints, weeks: list[int], number: int, mode: Mode) -> Any:
    """Which rows a refit scores: all (frozen), or those of its week."""
    if mode == "frozen":
        return np.ones(len(rows), dtype=np.bool_)
    day = market.table.day[rows]
    return (day >= weeks[number]) & (day < weeks[number] + 7)


def trees(market: Market, data: Dataset, plan: Plan, before: int, rows: Ints) -> dict[str, Floats]:
    """Values (in currency) of the other methods, fitted on the same rows."""
    fit = fit_rows(data, before, lag=market.lag)
    anchor = market.table.anchor[rows]
    found = {"brand x mileage": np.exp(brand_mileage(market, fit, rows) + anchor)}
    line = straight_line(market, rows)
    if line is not None:
        found["straight line"] = line
    if np.all(np.isfinite(market.trade_value[rows])):
        found["trade value"] = market.trade_value[rows]
    for name, y in boosted(data, fit, rows, threads=plan.threads, seed=plan.training.seed).items():
        found[name] = np.exp(y + anchor)
    return found


def calibration_scores(
    market: Market, data: Dataset, plan: Plan, steps: Steps, fit: Fit = fit_network
) -> tuple[Ints, Floats]:
    """Rows of the weeks before the test and their quantiles, by a model that saw none of their labels."""
    if not plan.bound:
        return np.zeros(0, np.int32), np.zeros((0, 7))
    start = plan.test_from - WINDOW_DAYS - market.lag
    rows = rows_to_score(market, data, start, plan.test_from - 1)
    if len(fit_rows(data, start, lag=market.lag)) < 300 or not len(rows):
        steps.step("too little history to calibrate a bound before the test")
        return np.zeros(0, np.int32), np.zeros((0, 7))
    model = refit(
        data, start, plan.training, lag=market.lag, progress=steps.within("calibration fit"), fit=fit
    )
    found = quantiles_of(model, data, rows)
    steps.step("scores for the first calibration")
    return rows, found


def bounds(
    market: Market, rows: Ints, quantiles: Floats, past: tuple[Ints, Floats], weeks: list[int]
) -> tuple[Floats, list[dict[str, Any]]]:
    """Lower bound of each row (in currency), recalibrated each Monday on the 56 days before the label lag."""
    every = np.concatenate([past[0], rows]).astype(np.int32)
    table, q = market.table, np.concatenate([past[1], quantiles])
    day, anchor = table.day[every], table.anchor[every]
    value = np.exp(q[:, POINT] + anchor)
    score = scores(table.y[every], q[:, POINT], q[:, LOW])
    low = np.full(len(every), np.nan)
    weekly: list[dict[str, Any]] = []
    test = np.arange(len(every)) >= len(past[0])
    for start in weeks:
        used = window(day, start - market.lag)
        table_of = calibrate(score[used], value[used], market.bands)
        here = np.flatnonzero(test & (day >= start) & (day < start + 7))
        if table_of is None or not len(here):
            continue
        low[here] = np.exp(bound(table_of, value[here], q[here, POINT], q[here, LOW]) + anchor[here])
        price = np.exp(table.y[here] + anchor[here])
        weekly.append(
            {
                "week": str(np.datetime64(start, "D")),
                "scores": len(used),
                **bound_figures(value[here], low[here], price),
            }
        )
    return low[test], weekly


def named(codes: Ints, words: Any) -> list[str]:
    """Words of the most frequent codes; the others together."""
    back = {code: word for word, code in words.items()}
    found, count = np.unique(codes, return_counts=True)
    large = set(found[np.argsort(-count, kind="stable")[:GROUPS]].tolist())
    return ["unknown" if c == NONE else str(back[int(c)]) if c in large else "others" for c in codes]


def labels(market: Market, data: Dataset, scored: Scored) -> dict[str, list[str]]:
    """For each way to group, the label of each scored car. Bands are of the predicted price, which is
    known beforehand."""
    rows, table = scored.rows, market.table
    names = band_names(market.bands)
    found = {
        "month": [str(np.datetime64(int(day), "D"))[:7] for day in table.day[rows]],
        "band": [names[band] for band in band_of(scored.value, market.bands)],
        "region": named(table.region[rows], market.columns.words["region"]),
        "brand": named(table.brand[rows], market.columns.words["brand"]),
        "model": ["unseen" if new else "seen" for new in data.new_model[rows]],
    }
    electric = table.numbers[rows, ELECTRIC]
    if np.any(electric > 0):
        found["electric"] = ["electric" if value > 0 else "other" for value in electric]
    return found


def figures(market: Market, data: Dataset, plan: Plan, scored: Scored) -> dict[str, Any]:
    """The report as JSON."""
    groups = labels(market, data, scored)
    price, value = scored.price, scored.value
    there = np.isfinite(scored.low)
    coverage: dict[str, Any] = {"all": bound_figures(value[there], scored.low[there], price[there])}
    for name in ("month", "band"):
        column = np.asarray(groups[name])
        kinds = np.unique(column[there])
        coverage[name] = {
            str(kind): bound_figures(
                value[there & (column == kind)],
                scored.low[there & (column == kind)],
                price[there & (column == kind)],
                groups=len(kinds),
            )
            for kind in kinds
        }
    methods = {"network": point_figures(value, price)}
    methods |= {name: point_figures(other, price) for name, other in sorted(scored.others.items())}
    return {
        "market": market.name,
        "currency": market.currency,
        "synthetic": market.synthetic,
        "mode": plan.mode,
        "test_from": str(np.datetime64(plan.test_from, "D")),
        "test_to": str(np.datetime64(plan.test_to, "D")),
        "label_lag_days": market.lag,
        "anchor": market.columns.anchor,
        "filter": "first-seen cars; 0.02 < price / list price < 2.5; auction sales above 2,000",
        "sales": len(market.table),
        "sales_filtered_out": market.dropped,
        "fitted_on": len(scored.last.rows),
        **methods["network"],
        "methods": methods,
        "by": {name: by_group(column, value, price) for name, column in groups.items()},
        "coverage": coverage,
        "coverage_weekly": scored.weekly,
        "interval_80": interval(market, scored),
        "differences": {
            name: paired_difference(value, other, price) for name, other in sorted(scored.others.items())
        },
        "model": {
            "bytes": len(scored.last.tflite),
            "sha256": hashlib.sha256(scored.last.tflite).hexdigest(),
            "keras_litert_max_ln_difference": scored.last.difference,
            "seeds": plan.training.seeds,
            "seed": plan.training.seed,
        },
    }


def interval(market: Market, scored: Scored) -> dict[str, float]:
    """Raw share of prices inside the network's own 10 to 90 % interval, and its mean width in percent of
    the value."""
    y, q = market.table.y[scored.rows], scored.quantiles
    inside = (y >= q[:, LOW]) & (y <= q[:, 5])
    return {
        "coverage": round(100.0 * float(inside.mean()), 2),
        "width": round(100.0 * float(np.expm1(q[:, 5] - q[:, LOW]).mean()), 2),
    }
