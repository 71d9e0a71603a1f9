"""A valuation: amounts, bound, loan, reasons that add up, and all that is refused rather than guessed."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from models.errors import Misfit, ValuationError
from models.valuation.appraise import SYNTHETIC, Options, Valuation, value
from models.valuation.packfile import read_pack
from models.valuation.reasons import POINT
from models.valuation.survival import Histories, sale_table
from models.valuation.vehicle import decode, read_vehicle
from tests.valuation_small import DAY, VEHICLE, infer, meta, pack_bytes

PACK, META = read_pack(pack_bytes())
HASHES = {"model": "00", "pack": "11"}


def valued(change: dict[str, Any] | None = None, options: Options = Options(), **model: Any) -> Valuation:  # noqa: B008
    return value(read_vehicle({**VEHICLE, **(change or {})}, DAY), meta(**model), PACK, META, infer, options)


def histories(currency: str = "XTS", n: int = 400) -> Any:
    draw = np.random.default_rng(4)
    found = Histories(
        draw.integers(18_000, 18_400, n).astype(np.int32), draw.uniform(20e3, 200e3, n),
        draw.integers(0, 90, n).astype(np.int32), draw.random(n) < 0.8, draw.exponential(0.02, n),
    )  # fmt: skip
    return sale_table(found, (100e3,), currency, ("below 100,000", "100,000 and more"), 18_600)


def test_the_value_is_near_what_such_cars_fetched() -> None:
    found = valued()
    truth = 123_400 * math.exp(-0.06 - 0.11 * 3.66 - 0.0000015 * 61_000 + 0.1 + 0.03)
    assert found.point == pytest.approx(truth, rel=0.06)
    assert list(found.quantiles) == sorted(found.quantiles)
    assert found.bound is not None and found.quantiles[0] < found.bound < found.point


def test_the_reasons_add_up_to_the_point_and_name_what_moved_it() -> None:
    found = valued()
    total = found.reasons.base + sum(found.reasons.effects.values())
    assert total + found.anchor == pytest.approx(math.log(found.point), abs=1e-9)
    assert found.reasons.effects["region"] > 0.005  # Aville pays 3 % more
    elsewhere = valued({"region": "Cote"})
    assert elsewhere.reasons.effects["region"] < found.reasons.effects["region"]
    old = valued({"registered": "2013-03-01", "model_year": 2013})
    assert old.reasons.effects["age"] < found.reasons.effects["age"] - 0.3
    far = valued({"odometer_km": 150_000})
    assert far.reasons.effects["mileage"] < found.reasons.effects["mileage"] - 0.05
    assert "its age" in old.sentence() and "mean age and mileage" in old.sentence()


def test_the_comparables_are_past_sales_with_their_weights() -> None:
    found = valued()
    assert 1 <= len(found.comparables) <= 5
    for one in found.comparables:
        assert one.same_series and 20_000 < one.price < 200_000 and one.day < META.monday - 13
        assert 0.01 <= one.weight <= 1.0
    shown = found.as_json(HASHES)["comparables"][0]
    assert shown["km"] % 1_000 == 0 and shown["day"].startswith("2022-")


def test_a_loan_is_set_against_value_bound_and_forced_sale() -> None:
    found = valued(options=Options(50_000.0, histories())).as_json(HASHES)
    assert found["loan"]["ltv"] == pytest.approx(50_000 / found["value"], abs=1e-3)
    assert found["loan"]["ltv_of_bound"] > found["loan"]["ltv"]
    assert found["loan"]["ltv_of_forced_sale"] > found["loan"]["ltv_of_bound"]
    assert found["forced_sale"]["assumption"]["discount"] > 0
    assert "assumed" in found["forced_sale"]["assumption"]["is"]
    assert set(found["forced_sale"]["data"]["sold_within_days"]) == {"30", "60", "90"}
    assert "A loan of 50,000" in found["sentence"] and "is an assumption" in found["sentence"]
    harder = valued(options=Options(50_000.0, histories(), "p95")).as_json(HASHES)
    assert harder["forced_sale"]["value"] < found["forced_sale"]["value"]


def test_declared_adjustments_carry_their_source_and_widen_what_is_said() -> None:
    plain = valued()
    accident = {"kind": "accident", "effect": -0.1, "uncertainty": 0.05, "source": "Insurer A"}
    service = {"kind": "maintenance", "effect": 0.02, "uncertainty": 0.01, "source": "Garage B"}
    found = valued({"attestations": [accident]})
    assert found.point == pytest.approx(plain.point * 0.9)
    assert plain.bound is not None and found.bound is not None
    assert found.bound == pytest.approx(plain.bound * 0.85)
    assert found.quantiles[5] / found.point > plain.quantiles[5] / plain.point
    better = valued({"attestations": [service]})
    assert better.point == pytest.approx(plain.point * 1.02)
    assert better.bound == plain.bound  # a declared improvement raises no bound
    assert "Declared by Insurer A, not learned: accident -10.0%" in found.sentence()
    assert "no figure of it was learned" in found.as_json(HASHES)["adjustments"]["is"]


def test_the_same_vector_gives_the_same_bytes() -> None:
    found = valued(options=Options(50_000.0, histories()))
    again = value(decode(found.vector), meta(), PACK, META, infer, Options(50_000.0, histories()))
    assert json.dumps(again.as_json(HASHES)) == json.dumps(found.as_json(HASHES))


def test_synthetic_is_said_wherever_it_shows() -> None:
    found = valued()
    assert found.as_json(HASHES)["synthetic"] is True
    assert found.sentence().startswith(SYNTHETIC)
    real, real_meta = read_pack(pack_bytes(synthetic=False))
    one = value(read_vehicle(VEHICLE, DAY), meta(synthetic=False), real, real_meta, infer)
    assert one.as_json(HASHES)["synthetic"] is False and "SYNTHETIC" not in one.sentence()
    table = dataclasses.replace(histories(), synthetic=True)
    mixed = value(
        read_vehicle(VEHICLE, DAY), meta(synthetic=False), real, real_meta, infer, Options(None, table)
    )
    assert mixed.sentence().startswith(SYNTHETIC)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"electric": True}, "Electric: its battery"),
        ({"model": "Fjord 9"}, "No sale of this version"),
        ({"region": "Nowhere"}, "region is not known"),
        ({"odometer_km": None}, "mileage is not known"),
    ],
)
def test_what_is_not_known_is_said(change: dict[str, Any], text: str) -> None:
    found = valued(change)
    assert text in found.sentence()
    assert not any(text in note for note in valued().notes)


def test_a_thin_series_says_that_its_interval_leans_on_the_brand() -> None:
    pack, known = read_pack(pack_bytes("Sud", "Rare"))
    found = value(
        read_vehicle({**VEHICLE, "brand": "Sud", "series": "Rare"}, DAY), meta(), pack, known, infer
    )
    assert "Few sales" in found.sentence()


def test_an_old_model_or_calibration_says_so_and_none_gives_no_bound() -> None:
    assert "trained 200 days ago" in valued(trained_until=DAY - 200).sentence()
    assert "calibrated 60 days ago" in valued(calibrated_on=DAY - 60).sentence()
    none = valued(options=Options(50_000.0, histories()), calibration=None, calibrated_on=None)
    assert none.bound is None and none.forced is None
    assert "nothing should be lent" in none.sentence()
    assert none.as_json(HASHES)["loan"]["ltv_of_bound"] is None


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"features": "other"}, "another model"),
        ({"market": "cn"}, "one market"),
        ({"currency": "CNY"}, "one market"),
        ({"synthetic": False}, "synthetic"),
        ({"trained_until": DAY + 1}, "after the day"),
    ],
)
def test_a_model_that_the_pack_does_not_fit_is_refused(model: dict[str, Any], text: str) -> None:
    with pytest.raises(Misfit, match=text):
        valued(**model)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"series": "Alp"}, Misfit, "the pack is of Nord/Fjord"),
        ({"brand": "Unknown"}, Misfit, "vehicle is a Unknown/Fjord"),
        ({"brand": "nord"}, Misfit, "written as in the market"),
        ({"new_price": None}, ValuationError, "lacks it"),
        ({"x_f1": 3.0}, ValuationError, "no x_f1"),
    ],
)
def test_a_vehicle_that_the_pack_does_not_fit_is_refused(
    change: dict[str, Any], error: type[ValuationError], text: str
) -> None:
    with pytest.raises(error, match=text):
        valued(change)


def test_a_brand_or_series_that_the_market_never_saw_is_refused() -> None:
    for brand, series, text in (("Nord", "Ghost", "this series"), ("Ghost", "Ghost", "this brand")):
        pack, known = read_pack(pack_bytes(brand, series))
        with pytest.raises(ValuationError, match=text):
            value(
                read_vehicle({**VEHICLE, "brand": brand, "series": series}, DAY), meta(), pack, known, infer
            )


@pytest.mark.parametrize(("days", "text"), [(-7, "after the day of the valuation"), (40, "at most 28")])
def test_a_pack_of_the_wrong_week_is_refused(days: int, text: str) -> None:
    with pytest.raises(Misfit, match=text):
        value(read_vehicle(VEHICLE, DAY + days), meta(trained_until=0), PACK, META, infer)


@pytest.mark.parametrize("loan", [0.0, -5.0, math.nan, math.inf])
def test_a_loan_that_is_no_amount_is_refused(loan: float) -> None:
    with pytest.raises(ValuationError, match="loan"):
        valued(options=Options(loan))


def test_a_sale_table_of_another_currency_is_refused() -> None:
    with pytest.raises(Misfit, match="in CNY"):
        valued(options=Options(None, histories("CNY")))


@pytest.mark.parametrize("bad", [math.nan, math.inf, "crossing"])
def test_a_model_that_gives_no_price_is_not_believed(bad: float | str) -> None:
    def broken(features: Any, row: int) -> Any:
        found = dict(infer(features, row))
        quantiles = found["quantiles"].copy()
        quantiles[POINT] = quantiles[0] - 1.0 if isinstance(bad, str) else bad
        return {**found, "quantiles": quantiles}

    with pytest.raises(ValuationError, match="no price"):
        value(read_vehicle(VEHICLE, DAY), meta(), PACK, META, broken)
