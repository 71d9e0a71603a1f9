"""What the network is measured against: rules of thumb, linear models, the trade's own valuation, boosted
trees."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from models.runtime.market_data import Market
from models.valuation.dataset import Dataset
from models.valuation.table import Floats, Ints

LIFE_YEARS: Final = 15.0
"""The straight line reaches its floor after so many years."""
FLOOR: Final = 0.05
"""Share of the list price that the straight line never falls below."""
TREES: Final = 900
"""Rounds of boosting."""


def matrix(data: Dataset, rows: Ints) -> Floats:
    """The network's inputs as one row a vehicle: car, market block (means, neighbours, indexes) and the
    last week."""
    features = data.features
    return np.concatenate([features.car[rows], features.market[rows], features.sequence[rows, -1]], axis=1)


def straight_line(market: Market, rows: Ints) -> Floats | None:
    """List price less a fifteenth a year, in currency; None where the market has no list prices."""
    new = market.new_price[rows]
    if not np.all(np.isfinite(new)):
        return None
    found: Floats = new * np.maximum(1.0 - market.table.age[rows] / LIFE_YEARS, FLOOR)
    return found


def brand_mileage(market: Market, fit: Ints, rows: Ints) -> Floats:
    """A line in the mileage for each brand (ridge towards all brands' line), on price over anchor; ln of
    it."""
    table = market.table
    price = np.exp(table.y)
    km, centre = table.km, float(table.km[fit].mean())

    def columns(part: Ints) -> Floats:
        return np.stack([np.ones(len(part)), km[part] - centre], axis=1)

    everyone = np.linalg.lstsq(columns(fit), price[fit], rcond=None)[0]
    found = columns(rows) @ everyone
    for brand in np.unique(table.brand[rows]):
        own = fit[table.brand[fit] == brand]
        if len(own):
            x = columns(own)
            rest = price[own] - x @ everyone
            line = np.linalg.solve(x.T @ x + np.diag([2.0, 20.0]), x.T @ rest)
            here = table.brand[rows] == brand
            found[here] += columns(rows[here]) @ line
    result: Floats = np.log(np.maximum(found, 0.02))
    return result


def boosted(data: Dataset, fit: Ints, rows: Ints, *, threads: int, seed: int) -> dict[str, Floats]:
    """LightGBM and CatBoost on the same features and target as the network; ln of price over anchor."""
    base = data.features.car[:, 0] + data.features.car[:, 1]
    x, y, test = matrix(data, fit), data.table.y[fit] - base[fit], matrix(data, rows)
    return {
        name: np.asarray(fitted(x, y, test, threads, seed), dtype=np.float64) + base[rows]
        for name, fitted in (("lightgbm", lightgbm), ("catboost", catboost))
    }


def lightgbm(x: Floats, y: Floats, test: Floats, threads: int, seed: int) -> Any:
    """LightGBM, absolute error."""
    import lightgbm as lgb

    settings = {
        "objective": "l1",
        "num_leaves": 31,
        "learning_rate": 0.04,
        "min_data_in_leaf": 15,
        "feature_fraction": 0.4,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "verbose": -1,
        "num_threads": threads,
        "seed": seed,
        "deterministic": True,
    }
    return lgb.train(settings, lgb.Dataset(x, y), TREES).predict(test)


def catboost(x: Floats, y: Floats, test: Floats, threads: int, seed: int) -> Any:
    """CatBoost, absolute error."""
    import catboost as cb

    model = cb.CatBoostRegressor(
        loss_function="MAE",
        iterations=TREES,
        depth=6,
        learning_rate=0.06,
        l2_leaf_reg=3.0,
        thread_count=threads,
        random_seed=seed,
        verbose=False,
        allow_writing_files=False,
    )
    model.fit(x, y)
    return model.predict(test)
