"""What a model card is measured from: each part taken away in turn, the bound replayed, the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not here")

from models.errors import ModelError
from models.runtime import card_measure
from models.runtime.market_data import Market
from models.runtime.net import Parts
from models.runtime.train_network import Training
from models.valuation.card import card
from models.valuation.dataset import Dataset, fit_rows
from models.valuation.features import Features
from models.valuation.table import Floats, Ints
from tests.valuation_small import infer, market, week_of

pytestmark = pytest.mark.train

WORSE = {"comparables": 0.08, "market": 0.03}
"""What the stand-in for the network errs by without a part (ln)."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Values by `infer`, off by some ln."""

    off: float

    def one(self, features: Features, row: int) -> Mapping[str, Floats]:
        found = dict(infer(features, row))
        return {**found, "quantiles": found["quantiles"] + self.off * (-1) ** row}


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a refit gives, as far as a card looks at it."""

    runner: Runner
    rows: Ints


def small() -> Market:
    table, columns = market(2_400)
    none = np.full(len(table), np.nan)
    return Market("small", "XTS", True, table, columns, 14, (100_000.0,), none, np.exp(table.anchor), 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Parts, bool]]:
    """Refits that were asked for: (before, parts, whether the features have the head)."""
    found: list[tuple[int, Parts, bool]] = []

    def refit(data: Dataset, before: int, training: Training, **other: Any) -> Fitted:
        parts = other.get("parts", Parts())
        found.append((before, parts, bool(np.any(data.features.car[:, 1] != 0.0))))
        off = sum(error for name, error in WORSE.items() if not getattr(parts, name))
        return Fitted(Runner(off), fit_rows(data, before, lag=other["lag"]))

    monkeypatch.setattr(card_measure, "refit", refit)
    return found


def measured(**other: Any) -> card_measure.Measured:
    def silent(_what: str) -> Callable[[int, int, float], None] | None:
        return None

    return card_measure.measure(
        small(), week_of(), Training(seeds=1, epochs=1), head=other.get("head", True), threads=1,
        tell=lambda _line: None, progress=silent,
    )  # fmt: skip


def test_every_part_is_taken_away_once_and_the_bound_is_replayed(
    asked: list[tuple[int, Parts, bool]],
) -> None:
    found = measured()
    without = [
        name
        for _, parts, _ in asked
        for name in ("lstm", "regions", "comparables", "market")
        if not getattr(parts, name)
    ]
    assert sorted(without) == ["comparables", "lstm", "market", "regions"]
    assert [head for _, _, head in asked].count(False) == 1
    start = week_of() - 14 - card_measure.TEST_DAYS
    assert {before for before, _, _ in asked} == {start, start - 56 - 14}
    ablation = found.given["ablation"]
    assert ablation["comparables"]["mape"] > found.given["metrics"]["mape"] + 1.0
    assert ablation["lstm"] == found.given["metrics"]
    bound = found.given["calibration"]
    assert 80.0 < bound["coverage"] <= 100.0 and bound["low"] < 90.0 < bound["high"] and bound["haircut"] > 0
    assert len(found.weeks) == 8 and found.weeks[-1].calibration is not None
    assert {"brand x mileage", "straight line"} <= set(found.given["peers"])
    assert found.given["weights"] > 10_000


def test_what_is_measured_makes_a_card(asked: list[tuple[int, Parts, bool]]) -> None:
    given = measured().given
    model = {
        "sha256": "00", "market": "small", "currency": "XTS", "synthetic": True, "seeds": 1, "seed": 1,
        "weights": given["weights"], "bytes": 5, "trained_until": "2022-10-17",
    }  # fmt: skip
    data = {
        "sales": 1, "cars": 1, "first": "a", "last": "b", "files": ["x"], "dropped": 0, "label_lag_days": 14,
        "label_filter": "none",
    }  # fmt: skip
    made = card({**given, "model": model, "data": data})
    assert made["ablation"]["comparables"]["verdict"] == "helps"
    assert "adds nothing" in made["ablation"]["lstm"]["verdict"]


def test_a_model_without_the_head_is_compared_with_one_that_has_it(
    asked: list[tuple[int, Parts, bool]],
) -> None:
    given = measured(head=False).given
    assert given["ablation"]["head"]["mape"] == given["metrics"]["mape"]
    assert given["ablation"]["head"]["mape_with"] > 0


def test_without_sales_to_test_on_there_is_nothing_to_measure(asked: list[tuple[int, Parts, bool]]) -> None:
    found = small()
    with pytest.raises(ModelError, match="nothing to write a card from"):
        card_measure.measure(
            found, int(found.table.day.max()) + 400, Training(seeds=1), head=True, threads=1,
            tell=lambda _line: None, progress=lambda _what: None,
        )  # fmt: skip
