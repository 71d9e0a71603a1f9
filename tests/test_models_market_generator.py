"""The market of our own: the same seed, the same market; the mechanisms are in it; it says what it is."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("polars", reason="the market needs polars: install the extra [train]")

import polars as pl
from market_kit import CN_HEADER, cn_row, contents, run, write

from models.errors import MarketError
from models.market import generator, quality
from models.market.generator import Plan, make_cars, make_sales, make_world, true_log_ratio
from models.runtime import market_generate, market_report
from models.runtime import market_store as store
from models.runtime.market_ingest import ingest

PLAN = Plan(7, 4000, dt.date(2023, 1, 1), dt.date(2024, 12, 31), dt.date(2024, 3, 4))


def test_the_same_plan_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        market_generate.write_csv(PLAN, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = Plan(8, 4000, PLAN.start, PLAN.end, PLAN.crash)
    market_generate.write_csv(other, tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_prices_scatter_by_about_five_percent_around_what_can_be_known() -> None:
    world, cars = make_world(PLAN), make_cars(PLAN, make_world(PLAN))
    known = true_log_ratio(PLAN, world, cars)
    rng = np.random.default_rng(1)
    hidden = rng.normal(0, generator.UNRECORDED, PLAN.cars) + rng.normal(0, generator.MOOD, PLAN.cars)
    asked = np.log(generator.ask(cars.new_price * np.exp(known + hidden), rng) / cars.new_price)
    assert 0.045 < float(np.std(asked - known)) < 0.055


def test_age_distance_brand_region_and_season_all_matter() -> None:
    world, cars = make_world(PLAN), make_cars(PLAN, make_world(PLAN))
    known = true_log_ratio(PLAN, world, cars)
    design = np.column_stack([np.ones(PLAN.cars), cars.age_years, cars.km / 1e4])
    coefficients, *_ = np.linalg.lstsq(design, known, rcond=None)
    assert -0.2 < coefficients[1] < -0.08 and -0.03 < coefficients[2] < -0.003
    rest = known - design @ coefficients
    brand = world.series_brand[cars.series]
    for groups in (brand, cars.series, cars.region):
        means = [rest[groups == one].mean() for one in np.unique(groups) if (groups == one).sum() > 40]
        assert np.std(means) > 0.015
    slopes = world.brand_km
    assert slopes.max() > 2 * slopes.min()
    assert np.ptp(world.market_week) > 0.02 and np.abs(world.region_week).max() > 0.04


def test_the_crash_takes_three_tenths_within_a_week_and_heals() -> None:
    day = np.arange(PLAN.days)
    level = np.exp(generator.crash_by_day(PLAN, day))
    at = (dt.date(2024, 3, 4) - PLAN.start).days
    assert level[at - 1] == 1.0 and level[at + 6] == pytest.approx(0.7)
    assert 0.7 < level[-1] < 0.9
    assert generator.crash_by_day(Plan(1, 9, PLAN.start, PLAN.end), day).tolist() == [0.0] * PLAN.days


def test_quirks_of_asking_prices() -> None:
    table = make_sales(PLAN)
    prices = np.array([float(one) for one in table["price"]])
    high = prices[(prices > 100_000) & (prices < 500_000)]
    assert (high % 1000 == 0).mean() > 0.5
    assert (high % 1000 == 800).mean() > 0.2
    assert set(table["currency"]) == {"XTS"}


@pytest.mark.parametrize(
    ("start", "end", "crash"),
    [
        ("2024-01-01", "2024-01-10", None),
        ("2024-02-01", "2024-01-01", None),
        ("2024-01-01", "2024-06-01", "2025-01-01"),
    ],
)
def test_a_plan_that_cannot_be_meant(start: str, end: str, crash: str | None) -> None:
    day = dt.date.fromisoformat
    with pytest.raises(ValueError, match=r"--to lies before|crash lies outside"):
        Plan(1, 10, day(start), day(end), day(crash) if crash else None)


def test_a_generated_folder_is_whole_and_says_that_it_is_synthetic(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    done = run(
        "generate", "--into", folder, "--seed", "7", "--cars", "2000", "--from", "2023-01-01",
        "--to", "2025-01-31", "--crash", "2024-03-04", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "synthetic market, seed 7" in done.stderr
    entry = json.loads(done.stdout)
    assert entry["added"] > 2000 and 0 < sum(entry["refused"].values()) < 30
    assert sorted(path.name for path in folder.iterdir()) == ["key", "lock", "sales.parquet"]
    assert b"A0TH" not in contents(folder)
    record = store.read_record(folder)
    assert record is not None and record.synthetic and record.currency == "XTS"
    assert record.generator["seed"] == "7" and record.generator["crash"] == "2024-03-04"
    figures = market_report.measure(folder)
    assert figures["notices"][0].startswith("These sales are synthetic")
    assert market_report.text(figures).startswith("SYNTHETIC")
    falls = quality.first_jumps([one for one in figures["jumps"] if one["change"] < -0.15])
    assert falls and falls[0]["week"] in ("2024-03-04", "2024-03-11")
    assert 0.06 < figures["again"]["share"] < 0.12


def test_the_same_seed_makes_the_same_table(tmp_path: Path) -> None:
    plan = Plan(3, 500, dt.date(2024, 1, 1), dt.date(2024, 6, 30))
    for name in "ab":
        market_generate.generate(plan, tmp_path / name)
    assert (tmp_path / "a" / store.SALES).read_bytes() == (tmp_path / "b" / store.SALES).read_bytes()


def test_real_and_synthetic_sales_never_meet(tmp_path: Path) -> None:
    plan = Plan(3, 300, dt.date(2024, 1, 1), dt.date(2024, 6, 30))
    market_generate.generate(plan, tmp_path / "s", tmp_path / "s.csv")
    real = write(tmp_path / "cn.csv", CN_HEADER, [cn_row(number) for number in range(5)])
    with pytest.raises(MarketError, match="holds synthetic sales; real ones go into a folder of their own"):
        ingest([real], tmp_path / "s")
    ingest([real], tmp_path / "r")
    with pytest.raises(MarketError, match="holds real sales; synthetic ones"):
        ingest([tmp_path / "s.csv"], tmp_path / "r")
    with pytest.raises(MarketError, match="a synthetic market goes into a folder of its own"):
        market_generate.generate(plan, tmp_path / "r")


def test_no_invented_number_can_be_a_vehicles() -> None:
    numbers = [generator.synthetic_vin(seed, serial) for seed in (0, 5, 99) for serial in (0, 12_345)]
    frame = pl.DataFrame({"vin": numbers})
    assert frame["vin"].str.contains(r"^A0T[A-Z]{4}[0-9]{10}$").all()
    assert len(set(numbers)) == len(numbers)
