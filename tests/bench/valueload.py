"""One valuation with its features: time, memory, files; and a weekly refit (make bench-value)."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
MAX_MS: Final = 5.0
MAX_MIB: Final = 60.0
MAX_BYTES: Final = 1_000_000
MAX_REFIT_S: Final = 600.0
TURNS: Final = 300


def one_process(model: Path, pack: Path) -> dict[str, Any]:
    """In a process that loads what a node loads: milliseconds of one core for a valuation, peak memory."""
    import numpy as np

    from models.runtime.litert import Runner
    from models.valuation.features import features_of
    from models.valuation.modelfile import read_model
    from models.valuation.packfile import read_pack

    runner = Runner(read_model(model.read_bytes()).tflite)
    market, _ = read_pack(pack.read_bytes())
    cars = market.sales.take(np.arange(min(len(market.sales), 50)))
    spent = []
    for turn in range(TURNS):
        started = time.process_time()
        runner.one(features_of(cars.take(slice(turn % len(cars), turn % len(cars) + 1)), market))
        spent.append(1000.0 * (time.process_time() - started))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms_median": float(np.median(spent)), "ms_p99": float(np.quantile(spent, 0.99)), "peak_mib": peak}


def apart(model: Path, pack: Path) -> dict[str, Any]:
    """`one_process` in a fresh process."""
    args = [sys.executable, __file__, "--one", str(model), str(pack)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(args, check=True, stdout=subprocess.PIPE, env=env)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refit(folder: Path, before: str, into: Path) -> float:
    """Seconds of a weekly refit of a market folder: 3 seeds, calibration, model, every pack."""
    import datetime as dt

    from models.runtime.market_data import load
    from models.runtime.processors import prepare
    from models.runtime.train_market import train
    from models.runtime.train_network import Training

    prepare(2)
    started = time.perf_counter()
    day = (dt.date.fromisoformat(before) - dt.date(1970, 1, 1)).days
    train(load(folder), day, into, Training(seeds=3), lambda line: print(line, file=sys.stderr))
    return time.perf_counter() - started


def main() -> int:
    """Measure, print, and end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", type=Path, help="market folder; default: a synthetic one")
    parser.add_argument("--before", default="2025-06-30", help="a Monday")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, nargs=2, help="only one process's figures")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_process(*options.one)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.market
        if folder is None:
            folder = Path(scratch) / "market"
            synthetic(folder)
        seconds = refit(folder, options.before, Path(scratch) / "release")
        model = Path(scratch) / "release" / "valuation.tflite"
        packs = sorted((Path(scratch) / "release" / "packs").iterdir(), key=lambda path: path.stat().st_size)
        figures = {
            "refit_s": round(seconds, 1),
            "model_bytes": model.stat().st_size,
            "largest_pack_bytes": packs[-1].stat().st_size,
            "packs": len(packs),
            **apart(model, packs[-1]),
        }
    broken = [
        name
        for name, bad in {
            "refit": figures["refit_s"] > MAX_REFIT_S,
            "time": figures["ms_median"] > MAX_MS,
            "memory": figures["peak_mib"] > MAX_MIB,
            "size": figures["model_bytes"] + figures["largest_pack_bytes"] > MAX_BYTES,
        }.items()
        if bad
    ]
    text = json.dumps(figures | {"broken": broken}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", "utf-8")
    return 1 if broken else 0


def synthetic(folder: Path) -> None:
    """A synthetic market of 30,000 cars."""
    import datetime as dt

    from models.market.generator import Plan
    from models.runtime.market_generate import generate

    generate(Plan(1, 30_000, dt.date(2023, 1, 1), dt.date(2025, 6, 30)), folder)


if __name__ == "__main__":
    raise SystemExit(main())
