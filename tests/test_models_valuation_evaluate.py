"""The whole path on a small market: fit, export, LiteRT, figures, release; and that no later label reaches
a prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow lives in the environment of `make train-env`")
pytest.importorskip("ai_edge_litert", reason="LiteRT lives in the environment of `make train-env`")

from models.errors import ModelError
from models.runtime.evaluate_tool import Asked
from models.runtime.evaluate_tool import evaluate as command
from models.runtime.evaluate_valuation import Plan, evaluate
from models.runtime.litert import Runner
from models.runtime.market_data import Market
from models.runtime.refit import quantiles_of, refit
from models.runtime.train_market import MODEL, PACKS, pack_name, train
from models.runtime.train_network import Training
from models.valuation.dataset import build
from models.valuation.features import features_of
from models.valuation.modelfile import ModelFileError, read_model
from models.valuation.packfile import read_pack, vehicle_columns
from models.valuation.state import monday
from models.valuation.table import make_table
from tests.models_valuation_world import market as world

pytestmark = pytest.mark.train

TABLE, COLUMNS, ARRAYS = world(1300)
TEST_FROM = int(np.unique(monday(TABLE.day))[30])
SMALL = Training(seeds=2, seed=3, epochs=4, batch=64)


def made(table: Any = TABLE) -> Market:
    nothing = np.full(len(table), np.nan)
    return Market(
        "test",
        "XTS",
        True,
        table,
        COLUMNS,
        14,
        (60_000.0, 120_000.0, 200_000.0),
        nothing,
        np.exp(table.anchor),
        0,
    )


@pytest.fixture(scope="module")
def scored() -> Any:
    market = made()
    data = build(TABLE, head=True)
    told: list[str] = []
    plan = Plan(TEST_FROM, int(TABLE.day[-1]), "frozen", SMALL, baselines=False, bound=True)
    return (*evaluate(market, data, plan, told.append), told, data)


def test_the_figures_are_those_of_the_exported_file(scored: Any) -> None:
    figures, found, told, data = scored
    assert figures["n"] == len(found.rows) > 100
    assert figures["model"]["keras_litert_max_ln_difference"] <= 1e-5
    assert figures["mape"] < 15.0
    assert figures["synthetic"] is True
    error = np.abs(np.exp(data.table.y[found.rows] + data.table.anchor[found.rows]) / found.value - 1.0)
    assert 0 < error.mean() < 0.2
    assert sum(group["n"] for group in figures["by"]["month"].values()) == figures["n"]
    assert any("min left" in line for line in told)
    json.dumps(figures)


def test_quantiles_never_cross(scored: Any) -> None:
    assert (np.diff(scored[1].quantiles, axis=1) >= 0).all()


def test_the_bound_is_calibrated_before_the_first_scored_week(scored: Any) -> None:
    figures, found, *_ = scored
    assert np.isfinite(found.low).all()
    assert (found.low < found.value).mean() > 0.95
    assert 75.0 < figures["coverage"]["all"]["coverage"] <= 100.0
    assert figures["coverage_weekly"][0]["scores"] >= 50


def test_no_prediction_changes_when_later_labels_are_shuffled(scored: Any) -> None:
    data = scored[3]
    late = np.flatnonzero(TABLE.day >= TEST_FROM - 14)
    y = TABLE.y.copy()
    y[late] = np.random.default_rng(2).permutation(y[late]) + 0.5
    other = build(
        replace(TABLE, y=y), head=True, weeks=np.unique(monday(TABLE.day[TABLE.day < TEST_FROM + 7]))
    )
    rows = np.flatnonzero((TABLE.day >= TEST_FROM) & (TABLE.day < TEST_FROM + 7)).astype(np.int32)
    fitted = refit(other, TEST_FROM, SMALL, lag=14)
    mine = {int(row): place for place, row in enumerate(scored[1].rows)}
    rows = np.array([row for row in rows if int(row) in mine], dtype=np.int32)
    assert len(rows) > 5
    before = scored[1].quantiles[[mine[int(row)] for row in rows]]
    # Two trainings in one process sum in another order now and then: equal to the last bits of a float32.
    assert np.abs(quantiles_of(fitted, other, rows) - before).max() < 1e-4
    assert not np.array_equal(data.table.y[late], y[late])


def test_a_release_gives_a_node_the_same_value(scored: Any, tmp_path: Path) -> None:
    release = train(made(), TEST_FROM, tmp_path, SMALL, lambda _line: None)
    data = (tmp_path / MODEL).read_bytes()
    model = read_model(data)
    assert model.sha256 == release.sha256
    assert model.meta.calibration is not None
    assert model.meta.trained_until == TEST_FROM - 14
    runner = Runner(model.tflite)
    for place in range(0, len(scored[1].rows), 40):
        row = int(scored[1].rows[place])
        if TABLE.day[row] >= TEST_FROM + 7:
            continue
        name = pack_name(f"{ARRAYS['brand'][row]}/{ARRAYS['series'][row]}")
        pack, meta = read_pack((tmp_path / PACKS / name).read_bytes())
        assert meta.features == model.meta.features
        given = {key: column[row : row + 1] for key, column in ARRAYS.items() if key != "price"}
        table = make_table(given, vehicle_columns(meta, None), 1)
        assert np.array_equal(runner.one(features_of(table, pack))["quantiles"], scored[1].quantiles[place])
    assert len(data) + max(release.packs.values()) < 1_000_000
    with pytest.raises(ModelFileError, match="cut off"):
        read_model(data[:-1000])
    with pytest.raises(ModelFileError, match="no TFLite model"):
        read_model(b"PK\3\4" + data)


def test_too_little_history_is_refused(scored: Any) -> None:
    with pytest.raises(ModelError, match="sales were visible"):
        refit(scored[3], int(TABLE.day[0]) + 70, SMALL, lag=14)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"test_from": "21-03-2021"}, 2),
        ({"mode": "guess"}, 2),
        ({"test_to": "2020-01-01"}, 2),
        ({"anchor": "x"}, 2),
    ],
)
def test_a_command_line_that_cannot_be_meant(change: dict[str, Any], code: int, tmp_path: Path) -> None:
    asked = Asked("cn", [tmp_path / "no.csv"], "2021-03-21", None, "frozen")
    assert command(replace(asked, **change)) == code


def test_a_missing_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(Asked("cn", [tmp_path / "no.csv"], "2021-03-21", None, "frozen")) == 1
    assert "no.csv" in capsys.readouterr().err
