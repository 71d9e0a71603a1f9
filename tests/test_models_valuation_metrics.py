"""Figures of a valuation against numbers worked out by hand or by another library."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.valuation.metrics import (
    band_names,
    band_of,
    binomial_range,
    bound_figures,
    by_group,
    paired_difference,
    point_figures,
)

PRICE = np.array([100.0, 200.0, 400.0, 50.0])
VALUE = np.array([108.0, 180.0, 300.0, 50.0])


def test_point_figures() -> None:
    assert point_figures(VALUE, PRICE) == {
        "n": 4, "mape": 10.75, "median_ape": 9.0, "within_8": 50.0, "within_22": 75.0, "wape": 17.067,
    }  # fmt: skip
    assert point_figures(VALUE[:0], PRICE[:0]) == {"n": 0}


def test_groups_keep_every_car() -> None:
    found = by_group(["a", "b", "a", "b"], VALUE, PRICE)
    assert [found["a"]["n"], found["b"]["n"]] == [2, 2]
    assert found["b"]["mape"] == 5.0


@pytest.mark.parametrize(("n", "share", "tail"), [(20, 0.9, 0.005), (300, 0.9, 0.025), (900, 0.5, 0.01)])
def test_the_binomial_range_leaves_out_no_more_than_its_tails(n: int, share: float, tail: float) -> None:
    low, high = binomial_range(n, share, tail)

    def mass(a: int, b: int) -> float:
        return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(a, b))

    at_low, at_high = round(low * n), round(high * n)
    assert mass(0, at_low) < tail <= mass(0, at_low + 1)
    assert mass(at_high + 1, n + 1) <= tail < mass(at_high, n + 1) + 1e-12


def test_bound_figures() -> None:
    found = bound_figures(VALUE, VALUE * 0.9, PRICE)
    assert found["coverage"] == 100.0
    assert found["haircut"] == 10.0
    assert found["inside"]


def test_bands() -> None:
    assert band_names([5_000, 12_500]) == ["< 5k", "5k-12.5k", ">= 12.5k"]
    assert band_of(np.array([4_999.0, 5_000.0, 99_999.0]), [5_000, 12_500]).tolist() == [0, 1, 2]


def test_a_paired_difference_knows_its_sign_and_its_doubt() -> None:
    draw = np.random.default_rng(0)
    price = np.exp(draw.normal(10, 1, 2_000))
    good, bad = (price * np.exp(draw.normal(0, spread, 2_000)) for spread in (0.08, 0.09))
    found = paired_difference(good, bad, price)
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["ratio"] < 1
    assert paired_difference(good, bad, price) == found
    same = paired_difference(good, good, price)
    assert (same["difference"], same["ratio"]) == (0.0, 1.0)
