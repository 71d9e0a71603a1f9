"""Who may see what when: no feature and no prediction knows a label that was not yet visible, nor its own
car."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from models.valuation.dataset import Dataset, build, first_seen, fit_rows, score_rows
from models.valuation.features import Features
from models.valuation.state import LABEL_LAG_DAYS, last_visible, monday, visible
from models.valuation.table import Table
from tests.models_valuation_world import market

TABLE, COLUMNS, ARRAYS = market(900)
WEEK = int(np.unique(monday(TABLE.day))[25])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build(TABLE, head=True, weeks=[WEEK])


def different(one: Features, two: Features) -> list[str]:
    """Names of the inputs that are not equal, bit for bit."""
    return [
        f.name for f in fields(Features) if not np.array_equal(getattr(one, f.name), getattr(two, f.name))
    ]


def with_prices(table: Table, rows: np.ndarray, factor: float) -> Table:  # type: ignore[type-arg]
    y = table.y.copy()
    y[rows] += np.log(factor)
    return replace(table, y=y)


def test_later_labels_change_no_feature(data: Dataset) -> None:
    late = np.flatnonzero(TABLE.day >= WEEK - LABEL_LAG_DAYS)
    shuffled = TABLE.y.copy()
    shuffled[late] = np.random.default_rng(1).permutation(shuffled[late]) + 0.3
    again = build(replace(TABLE, y=shuffled), head=True, weeks=[WEEK])
    assert different(data.features, again.features) == []


def test_a_label_one_day_before_the_cut_off_changes_features(data: Dataset) -> None:
    early = np.flatnonzero(TABLE.day == WEEK - LABEL_LAG_DAYS - 1)
    assert len(early)
    again = build(with_prices(TABLE, early, 1.2), head=True, weeks=[WEEK])
    assert {"car", "market", "comparables"} <= set(different(data.features, again.features))


def test_later_rows_change_no_feature(data: Dataset) -> None:
    kept = TABLE.take(TABLE.day < WEEK + 7)
    again = build(kept, head=True, weeks=[WEEK])
    rows = np.flatnonzero(monday(kept.day) == WEEK)
    for name in ("car", "market", "comparables", "sequence", "regions"):
        assert np.array_equal(getattr(again.features, name)[rows], getattr(data.features, name)[rows]), name


def test_a_cars_own_earlier_sale_is_not_among_its_evidence() -> None:
    first = first_seen(TABLE)
    row = next(int(r) for r in np.flatnonzero(~first) if TABLE.day[r] > int(TABLE.day[0]) + 150)
    start = int(monday(TABLE.day[row : row + 1])[0])
    own = np.flatnonzero((TABLE.car == TABLE.car[row]) & (TABLE.day < TABLE.day[row]))
    assert len(own) == 1
    # Posted long enough before to be visible: only its exclusion keeps it out.
    day = TABLE.day.copy()
    day[own] = start - LABEL_LAG_DAYS - 1
    moved = replace(TABLE, day=day)
    order = np.argsort(moved.day, kind="stable")
    moved = moved.take(order)
    row = int(np.flatnonzero(order == row)[0])
    own = np.flatnonzero((moved.car == moved.car[row]) & (moved.day < moved.day[row]))
    plain = build(moved, head=False, weeks=[start]).features
    other = build(with_prices(moved, own, 1.25), head=False, weeks=[start]).features
    # What is left of its own price is its share in the curve and in whole-market means: under a hundredth.
    assert np.abs(plain.market[row] - other.market[row]).max() < 0.01
    assert np.abs(plain.comparables[row, :, 0] - other.comparables[row, :, 0]).max() < 0.01
    stranger = moved.car.copy()
    stranger[own] = moved.car.max() + 1
    seen = build(with_prices(replace(moved, car=stranger), own, 1.25), head=False, weeks=[start]).features
    assert np.abs(plain.market[row] - seen.market[row]).max() > 0.02


def test_visible_is_the_last_listing_before_the_cut_off() -> None:
    again = last_visible(TABLE)
    cutoff = WEEK - LABEL_LAG_DAYS
    mask = visible(TABLE, again, cutoff)
    assert TABLE.day[mask].max() < cutoff
    assert len(np.unique(TABLE.car[mask])) == int(mask.sum())
    assert set(TABLE.car[mask]) == set(TABLE.car[TABLE.day < cutoff])


def test_fitted_and_scored_rows(data: Dataset) -> None:
    fit = fit_rows(data, WEEK)
    assert TABLE.day[fit].max() < WEEK - LABEL_LAG_DAYS
    assert TABLE.day[fit].min() >= TABLE.day[0] + 49
    rows = score_rows(data, WEEK, WEEK + 6)
    assert len(rows)
    assert len(np.unique(TABLE.car[rows])) == len(rows)
    earlier = set(TABLE.car[TABLE.day < WEEK])
    assert not earlier & set(TABLE.car[rows])


@pytest.mark.parametrize("share", [0.05])
def test_poisoned_sales_move_the_values_little(share: float) -> None:
    bad = np.flatnonzero(np.random.default_rng(3).random(len(TABLE)) < share)
    rows = np.flatnonzero(monday(TABLE.day) == WEEK)
    clean = build(TABLE, head=True, weeks=[WEEK]).features
    dirty = build(with_prices(TABLE, bad, 0.1), head=True, weeks=[WEEK]).features
    moved = np.abs((clean.car[rows, 0] + clean.car[rows, 1]) - (dirty.car[rows, 0] + dirty.car[rows, 1]))
    assert moved.max() < 0.08
    assert np.abs(clean.market[rows, 1:4] - dirty.market[rows, 1:4]).max() < 0.08


def test_a_month_without_sales_and_an_unknown_car_have_features() -> None:
    gap = TABLE.take((TABLE.day < WEEK - 45) | (TABLE.day >= WEEK))
    row = int(np.flatnonzero(monday(gap.day) == WEEK)[0])
    codes = {name: getattr(gap, name).copy() for name in ("brand", "series", "model", "region")}
    for name, column in codes.items():
        column[row] = getattr(gap, name).max() + 5
    found = build(replace(gap, **codes), head=True, weeks=[WEEK])
    assert np.isfinite(found.features.market[row]).all()
    assert np.isfinite(found.features.car[row]).all()
    assert found.new_model[row]
    assert found.features.comparables[row, :, -1].sum() == 16
