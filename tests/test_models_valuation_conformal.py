"""The lower bound covers what it says, by band, and refuses where there are too few scores."""

from __future__ import annotations

import numpy as np
import pytest

from models.valuation.conformal import bound, calibrate, lower_quantile, scores, window

EDGES = (10.0, 100.0)


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Value, ln point and ln price: cheap cars are three times as uncertain as the network thinks."""
    draw = np.random.default_rng(seed)
    value = np.exp(draw.uniform(0.5, 7.0, n))
    spread = np.where(value < 10.0, 0.3, 0.1)
    point = np.log(value)
    return value, point, point + spread * draw.normal(size=n)


def test_it_covers_nine_of_ten_in_every_band() -> None:
    value, point, y = world(6_000, 1)
    low = point - 0.128
    table = calibrate(scores(y, point, low), value, EDGES)
    assert table is not None
    value, point, y = world(6_000, 2)
    covered = y >= bound(table, value, point, point - 0.128)
    assert 0.885 < covered.mean() < 0.915
    for band in (value < 10.0, (value >= 10.0) & (value < 100.0), value >= 100.0):
        assert 0.87 < covered[band].mean() < 0.93
    assert table.bands[0] < 2 * table.bands[2] < 0


def test_too_few_scores_give_no_bound() -> None:
    value, point, y = world(49, 1)
    assert calibrate(scores(y, point, point - 0.1), value, EDGES) is None


def test_an_empty_band_takes_the_whole_markets_quantile() -> None:
    value, point, y = world(500, 1)
    table = calibrate(scores(y, point, point - 0.1), value, (*EDGES, 1e9))
    assert table is not None
    assert table.bands[3] == table.overall
    assert table.n[3] == 0


@pytest.mark.parametrize(("n", "rank"), [(9, 1), (19, 2), (99, 10), (100, 10)])
def test_the_quantile_is_of_finite_samples(n: int, rank: int) -> None:
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert lower_quantile(values, 0.1) == rank
    assert lower_quantile(values, 0.1, np.ones(n)) == rank


def test_a_network_that_is_too_sure_is_not_believed() -> None:
    found = scores(np.array([-0.1]), np.array([0.0]), np.array([-1e-9]))
    assert found[0] == pytest.approx(-5.0)


def test_the_window_ends_before_the_cut_off() -> None:
    day = np.arange(100, dtype=np.int32)
    assert window(day, 80).tolist() == list(range(24, 80))
