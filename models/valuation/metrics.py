"""Figures of a valuation: relative errors, by group, coverage with its sampling range, paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.valuation.table import Bools, Floats

NEAR: Final = 0.08
FAR: Final = 0.22
"""The two widths of the mission: +-8 %, and the 22 % that lenders take off today."""

RESAMPLES: Final = 2_000
"""Bootstrap resamples of a paired difference."""


def point_figures(value: Floats, price: Floats) -> dict[str, float | int]:
    """n, MAPE, median error, shares within 8 and 22 %, WAPE: all in percent. Empty: n alone."""
    if not len(price):
        return {"n": 0}
    error = np.abs(value / price - 1.0)
    return {
        "n": len(price),
        "mape": round(100.0 * float(error.mean()), 3),
        "median_ape": round(100.0 * float(np.median(error)), 3),
        "within_8": round(100.0 * float((error <= NEAR + 1e-12).mean()), 2),
        "within_22": round(100.0 * float((error <= FAR + 1e-12).mean()), 2),
        "wape": round(100.0 * float(np.abs(value - price).sum() / price.sum()), 3),
    }


def log_factorials(n: int) -> Floats:
    """ln k! for k = 0..n."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def binomial_range(n: int, share: float, tail: float) -> tuple[float, float]:
    """Shares between which a count of n falls with all but `tail` of the probability at each side (exact
    binomial)."""
    if n == 0:
        return 0.0, 1.0
    ln = log_factorials(n)
    k = np.arange(n + 1)
    logs = ln[n] - ln[k] - ln[n - k] + k * math.log(share) + (n - k) * math.log1p(-share)
    below = np.cumsum(np.exp(logs))
    low, high = int(np.searchsorted(below, tail)), int(np.searchsorted(below, 1.0 - tail))
    return low / n, min(high, n) / n


def bound_figures(
    value: Floats, bound: Floats, price: Floats, *, groups: int = 1, tail: float = 0.01
) -> dict[str, Any]:
    """Coverage of a lower bound, the range chance allows at 90 % (two-sided `tail`, Bonferroni over
    `groups`), mean haircut."""
    n = len(price)
    if n == 0:
        return {"n": 0}
    low, high = binomial_range(n, 0.9, tail / 2.0 / groups)
    covered = float((price >= bound).mean())
    return {
        "n": n,
        "coverage": round(100.0 * covered, 2),
        "range": [round(100.0 * low, 2), round(100.0 * high, 2)],
        "inside": bool(low <= covered <= high),
        "haircut": round(100.0 * float((1.0 - bound / value).mean()), 2),
    }


def by_group(labels: Sequence[str], value: Floats, price: Floats) -> dict[str, dict[str, float | int]]:
    """`point_figures` of each label, in the labels' order."""
    column = np.asarray(labels)
    return {
        str(label): point_figures(value[column == label], price[column == label])
        for label in np.unique(column)
    }


def band_names(edges: Sequence[float]) -> list[str]:
    """Names of the price bands between the edges, in thousands."""
    words = [f"{edge / 1000:g}k" for edge in edges]
    return [f"< {words[0]}", *(f"{a}-{b}" for a, b in itertools.pairwise(words)), f">= {words[-1]}"]


def band_of(value: Floats, edges: Sequence[float]) -> Any:
    """Index of each value's band."""
    return np.searchsorted(np.asarray(edges, dtype=np.float64), value, side="right")


def paired_difference(ours: Floats, theirs: Floats, price: Floats, seed: int = 7) -> dict[str, float]:
    """MAPE of `ours` less that of `theirs` (points), its 95 % bootstrap interval over cars, and the ratio of
    the MAPEs."""
    a, b = np.abs(ours / price - 1.0), np.abs(theirs / price - 1.0)
    difference = 100.0 * (a - b)
    draw = np.random.default_rng(seed)
    means = [difference[draw.integers(0, len(difference), len(difference))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": round(float(difference.mean()), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "ratio": round(float(a.mean() / b.mean()), 4),
    }


def figures_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for people: one line a row, the usual columns."""
    lines = [f"{'':<26}{'n':>7}{'MAPE':>8}{'median':>8}{'in 8':>7}{'in 22':>7}{'WAPE':>8}"]
    for name, row in rows.items():
        if row.get("n"):
            lines.append(
                f"{name:<26}{row['n']:>7}{row['mape']:>8.2f}{row['median_ape']:>8.2f}{row['within_8']:>7.1f}"
                f"{row['within_22']:>7.1f}{row['wape']:>8.2f}"
            )
    return "\n".join(lines)


def mask_of(labels: Sequence[str], label: str) -> Bools:
    """Which labels equal one."""
    found: Bools = np.asarray(labels) == label
    return found
