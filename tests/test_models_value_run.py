"""`holdfast value` as a process: what it prints, the same bytes from a vector, exit codes, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.runtime.value_start import Asked, read_asked
from tests.valuation_small import DAY, VEHICLE, pack_bytes
from tests.valuation_small import FIRST as _FIRST

pytest.importorskip("tensorflow", reason="TensorFlow is not here: it makes the model that is valued with")
pytest.importorskip("ai_edge_litert", reason="LiteRT is not here")

from tests.valuation_model import model_bytes

ROOT = Path(__file__).resolve().parent.parent
ON = "2022-11-02"
MAX_MEMORY = 60 * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model, pack and vehicle."""
    assert DAY == 19_298 and _FIRST < DAY  # ON is that day
    made = tmp_path_factory.mktemp("value")
    (made / "model").write_bytes(model_bytes())
    (made / "pack").write_bytes(pack_bytes())
    (made / "car.json").write_text(json.dumps(VEHICLE))
    return made


def value(folder: Path, *more: str, **other: Any) -> subprocess.CompletedProcess[str]:
    given = {"model": "model", "pack": "pack", "vehicle": "car.json", "on": ON, **other}
    options = [f"--{name}={given[name]}" for name in given if given[name] is not None]
    return subprocess.run(
        [sys.executable, "-m", "models", "value", *options, *more],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_valuation_says_it_in_a_sentence_and_in_json(folder: Path) -> None:
    said = value(folder, "--loan=50000")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("SYNTHETIC") and "A lender may count on" in said.stdout
    assert "weight" in said.stdout and said.stderr == ""
    found = json.loads(value(folder, "--loan=50000", "--json").stdout)
    assert found["synthetic"] is True and found["loan"]["ltv"] == pytest.approx(
        50_000 / found["value"], abs=1e-3
    )
    assert len(found["hashes"]["model"]) == 64 and len(found["hashes"]["pack"]) == 64
    assert len(found["input"]) <= 400 and found["sentence"] in said.stdout


def test_whoever_has_the_vector_gets_the_same_bytes(folder: Path) -> None:
    first = value(folder, "--loan=50000", "--json")
    vector = json.loads(first.stdout)["input"]
    again = value(folder, "--loan=50000", "--json", f"--input={vector}", vehicle=None, on=None)
    assert again.stdout == first.stdout and again.returncode == 0


def test_it_holds_neither_tensorflow_nor_polars_and_stays_under_60_mb(folder: Path) -> None:
    probe = (
        "import json,sys;from models.runtime.value_run import main;"
        "code=main(sys.argv[1]);"
        "peak=int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]);"
        "heavy=[m for m in ('tensorflow','keras','polars','pyarrow','typer') if m in sys.modules];"
        "print(json.dumps([code,peak,heavy]))"
    )
    asked = {"model": "model", "pack": "pack", "vehicle": "car.json", "on": ON, "as_json": True}
    done = subprocess.run(
        [sys.executable, "-c", probe, json.dumps(asked)],
        cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    code, peak, heavy = json.loads(done.stdout.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert peak <= MAX_MEMORY


def test_a_truncated_model_and_a_damaged_pack_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model").read_bytes()
    for name, data in (("model", whole[: len(whole) // 2]), ("pack", (folder / "pack").read_bytes()[:-50])):
        cut = tmp_path / name
        cut.write_bytes(data)
        done = value(folder, **{name: str(cut)})
        assert done.returncode == 40 and done.stdout == "" and "fetch it again" in done.stderr
    swapped = value(folder, model="pack", pack="model")
    assert swapped.returncode == 40


def test_a_pack_of_another_series_or_week_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "pack"
    other.write_bytes(pack_bytes("Sud", "Dune"))
    done = value(folder, pack=str(other))
    assert done.returncode == 40 and "the pack is of Sud/Dune" in done.stderr
    assert value(folder, on="2023-03-01").returncode == 40
    assert value(folder, on="2022-10-01").returncode == 40


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"vehicle": None}, "either --vehicle"),
        ({"on": "tomorrow"}, "no date"),
        ({"vehicle": "nothing.json"}, "No such file"),
        ({"vehicle": "pack"}, "no JSON"),
        ({"vehicle": None, "input": "AAAA"}, "leave --on out"),
        ({"vehicle": None, "on": None, "input": "AAAA"}, "vector is damaged"),
        ({"loan": "-5"}, "above 0"),
        ({"forced": "p50", "sale-table": None}, "p90, p95"),
        ({"sale-table": "car.json"}, "sale table"),
    ],
)
def test_what_cannot_be_meant_ends_with_a_sentence(folder: Path, other: dict[str, Any], text: str) -> None:
    done = value(folder, **other)
    assert done.returncode in (2, 40) and text in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_vehicle_with_nan_is_refused(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "car.json"
    bad.write_text(json.dumps({**VEHICLE, "odometer_km": float("nan")}))
    done = value(folder, vehicle=str(bad))
    assert done.returncode == 2 and "NaN is no JSON number" in done.stderr


def test_what_is_asked_survives_the_step_into_the_lean_process() -> None:
    from dataclasses import asdict

    asked = Asked(Path("m"), Path("p"), Path("v"), None, "2022-01-01", 5.0, None, "p95", True)
    text = json.dumps({n: str(v) if isinstance(v, Path) else v for n, v in asdict(asked).items()})
    assert read_asked(text) == asked
