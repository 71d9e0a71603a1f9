"""Measures what a model card needs: a test on the market's last weeks, every part's ablation, the bound."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from models.errors import ModelError
from models.runtime.baselines import boosted, brand_mileage, straight_line
from models.runtime.evaluate_valuation import LOW, POINT, rows_to_score
from models.runtime.market_data import Market
from models.runtime.net import Network, Parts, fit_scaler
from models.runtime.refit import Fitted, quantiles_of, refit
from models.runtime.train_network import Fit, Training, fit_network
from models.valuation.conformal import WINDOW_DAYS
from models.valuation.dataset import Dataset, build, fit_rows
from models.valuation.metrics import binomial_range, point_figures
from models.valuation.policy import Policy, Scored
from models.valuation.state import monday
from models.valuation.table import Floats, Ints
from models.valuation.watch import WeekReport, replay

TEST_DAYS: Final = 56
"""The market's last eight weeks with known labels are the card's test."""
NETWORK: Final = ("lstm", "regions", "comparables", "market")
Tell = Callable[[str], Callable[[int, int, float], None] | None]
"""What makes the progress function of a fit."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`given`: sections of the card. `weeks`: the policy of the bound, week by week."""

    given: dict[str, Any]
    weeks: list[WeekReport]
    policy: Policy


def measure(
    market: Market,
    before: int,
    training: Training,
    *,
    head: bool,
    threads: int,
    tell: Callable[[str], None],
    progress: Tell,
    fit: Fit = fit_network,
) -> Measured:
    """Fit before the test, score it, and take each part away in turn. Raises ModelError: too little data."""
    start, end = before - market.lag - TEST_DAYS, before - market.lag - 1
    table = market.table.take(market.table.day < before)
    data = build(table, head=head, lag=market.lag)
    rows = rows_to_score(market, data, start, end)
    if not len(rows):
        raise ModelError("no first-seen car was sold in the last eight weeks: nothing to write a card from")
    price = np.exp(table.y[rows] + table.anchor[rows])

    def scored(what: str, of: Dataset, parts: Parts = Parts()) -> tuple[Fitted, Floats]:  # noqa: B008
        tell(f"card: {what}")
        fitted = refit(of, start, training, lag=market.lag, parts=parts, progress=progress(what), fit=fit)
        return fitted, quantiles_of(fitted, of, rows)

    def figures(quantiles: Floats) -> dict[str, float | int]:
        return point_figures(np.exp(quantiles[:, POINT] + table.anchor[rows]), price)

    whole, quantiles = scored("the test", data)
    metrics = figures(quantiles)
    ablation: dict[str, Any] = {
        name: figures(scored(f"without {name}", data, replace(Parts(), **{name: False}))[1])
        for name in NETWORK
    }
    other = figures(scored("with the head turned over", build(table, head=not head, lag=market.lag))[1])
    ablation["head"] = other if head else {**metrics, "mape_with": other["mape"]}
    calibration, weeks, policy = bound_of(market, data, start, training, rows, quantiles, progress, fit)
    network = Network(fit_scaler(data.features, whole.rows), training.seeds, training.seed)
    given = {
        "splits": {
            "fit": f"prices visible before {_day(start)}",
            "calibrate": f"{_day(start - WINDOW_DAYS - market.lag)} on, each week anew",
            "test": f"{_day(start)} to {_day(end)}",
            "first_seen_only": True,
        },
        "metrics": metrics, "ablation": ablation, "calibration": calibration,
        "peers": peers(market, data, start, rows, price, threads, training.seed),
        "weights": sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
    }  # fmt: skip
    return Measured(given, weeks, policy)


def bound_of(
    market: Market,
    data: Dataset,
    start: int,
    training: Training,
    rows: Ints,
    quantiles: Floats,
    progress: Tell,
    fit: Fit,
) -> tuple[dict[str, Any], list[WeekReport], Policy]:
    """The policy over the test's weeks, begun on the scores of a network that was fitted before them."""
    table, early = data.table, start - WINDOW_DAYS - market.lag
    past = rows_to_score(market, data, early, start - 1)
    fitted = refit(data, early, training, lag=market.lag, progress=progress("before the test"), fit=fit)
    every = np.concatenate([past, rows]).astype(np.int32)
    found = np.concatenate([quantiles_of(fitted, data, past), quantiles])
    policy = Policy(edges=market.bands)
    scored = Scored(
        table.day[every], (table.day[every] + market.lag).astype(np.int32),
        np.exp(found[:, POINT] + table.anchor[every]), found[:, POINT], found[:, LOW], table.y[every],
    )  # fmt: skip
    first = int(monday(np.array([start], np.int32))[0])
    weeks, bounds = replay(policy, scored, range(first, int(table.day[rows].max()) + 1, 7))
    test = np.arange(len(every)) >= len(past)
    known = test & ~np.isnan(bounds)
    n = int(known.sum())
    if n == 0:
        raise ModelError("too few labels to calibrate a bound: there is nothing to write a card from")
    low, high = binomial_range(n, policy.coverage, 0.005)
    calibrations = [week.calibration for week in weeks if week.calibration is not None]
    return (
        {
            "coverage": round(100.0 * float((scored.y >= bounds)[known].mean()), 2),
            "low": round(100.0 * low, 2), "high": round(100.0 * high, 2),
            "haircut": round(100.0 * float((1.0 - np.exp(bounds - scored.point))[known].mean()), 2),
            "labels": sum(calibrations[-1].n), "window_days": WINDOW_DAYS, "judged": n,
        },
        weeks, policy,
    )  # fmt: skip


def peers(
    market: Market, data: Dataset, before: int, rows: Ints, price: Floats, threads: int, seed: int
) -> dict[str, Any]:
    """Figures of other methods on the same rows; boosting where it is installed."""
    fit, anchor = fit_rows(data, before, lag=market.lag), data.table.anchor[rows]
    found = {"brand x mileage": point_figures(np.exp(brand_mileage(market, fit, rows) + anchor), price)}
    line = straight_line(market, rows)
    if line is not None:
        found["straight line"] = point_figures(line, price)
    if np.all(np.isfinite(market.trade_value[rows])):
        found["trade value"] = point_figures(market.trade_value[rows], price)
    if importlib.util.find_spec("lightgbm") and importlib.util.find_spec("catboost"):
        for name, y in boosted(data, fit, rows, threads=threads, seed=seed).items():
            found[name] = point_figures(np.exp(y + anchor), price)
    return found


def _day(day: int) -> str:
    return str(np.datetime64(day, "D"))
