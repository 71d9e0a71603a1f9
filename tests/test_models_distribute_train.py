"""`holdfast train valuation`: from a market folder to a model and packs that `value` takes; and again."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not here")
pytest.importorskip("polars", reason="polars is not here")

from models.errors import ModelError
from models.market.generator import Plan
from models.runtime import distribute_train
from models.runtime.distribute_compare import compare_releases
from models.runtime.distribute_train import Asked, train
from models.runtime.market_generate import generate
from models.runtime.value_run import Valuer
from models.valuation.appraise import Options
from models.valuation.packfile import read_pack
from models.valuation.vehicle import read_vehicle

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market") / "m"
    generate(Plan(1, 1_500, date(2024, 1, 1), date(2024, 12, 29)), folder)
    return folder


def asked(market: Path, out: Path, **other: Any) -> Asked:
    return Asked(market, out, seeds=1, epochs=1, card=False, **other)


@pytest.fixture(scope="module")
def release(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "r"
    assert train(asked(market, out)) == 0
    return out


def test_a_release_values_a_vehicle_of_its_packs_and_says_that_it_is_synthetic(release: Path) -> None:
    index = json.loads((release / "index.json").read_text())
    assert index["synthetic"] is True and index["packs"] >= 3
    largest = max((release / "packs").iterdir(), key=lambda path: path.stat().st_size)
    pack, meta = read_pack(largest.read_bytes())
    vehicle = {
        "brand": meta.brand, "series": meta.series.partition("/")[2],
        "registered": "2020-05",
        "odometer_km": 60_000,
        "new_price": round(2.718281828 ** float(pack.sales.anchor[0])),
    }  # fmt: skip
    found = Valuer(release / "valuation.tflite", largest).value(read_vehicle(vehicle, meta.monday), Options())
    assert found.synthetic and found.sentence().startswith("SYNTHETIC")
    assert 0.1 < found.point / vehicle["new_price"] < 1.5
    assert (release / "valuation.tflite").stat().st_size + largest.stat().st_size <= 1_000_000


def test_the_same_command_again_gives_the_same_values_from_its_checkpoints(
    market: Path, release: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(release / "work", again / "work")
    times = {path: path.stat().st_mtime_ns for path in again.rglob("weights.npz")}
    assert times
    assert train(asked(market, again)) == 0
    assert {
        path: path.stat().st_mtime_ns for path in again.rglob("weights.npz")
    } == times  # nothing was fitted
    found = compare_releases(again, release)
    assert found.worst == 0.0 and found.cars > 0


def test_another_model_is_told_apart(release: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(release, other, ignore=shutil.ignore_patterns("work"))
    data = bytearray((other / "valuation.tflite").read_bytes())
    packs = sorted((other / "packs").iterdir())
    for path in packs:
        path.unlink()
    with pytest.raises(ModelError, match="no pack in common"):
        compare_releases(other, release)
    (other / "valuation.tflite").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut off"):
        compare_releases(other, release)
    with pytest.raises(ModelError, match="name the folder of a release"):
        compare_releases(tmp_path, release)


@pytest.mark.parametrize(
    ("other", "code", "text"),
    [
        ({"before": "2024-12-31"}, 2, "no Monday"),
        ({"before": "soon"}, 2, "no date"),
        ({"gpus": True, "workers": 2}, 2, "either --gpus or --workers"),
        ({"before": "2024-02-05"}, 1, "sales were visible"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    market: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    other: dict[str, Any],
    code: int,
    text: str,
) -> None:
    assert train(asked(market, tmp_path / "out", **other)) == code
    assert text in capsys.readouterr().err


def test_a_folder_without_sales_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(asked(tmp_path, tmp_path / "out")) == 1
    assert "holds no sales" in capsys.readouterr().err


def test_the_week_after_the_last_sale_is_a_monday() -> None:
    for last in range(20_000, 20_007):
        before = distribute_train._before(None, last)
        assert (before - 4) % 7 == 0 and 0 < before - last <= 7
