"""How long a market folder takes to take in a million sales, and how much memory (make bench)."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rows import Row

ROOT: Final = Path(__file__).resolve().parents[2]
SALES: Final = 1_000_000
MAX_SECONDS: Final = 60.0
MAX_MIB: Final = 2048.0
RELISTED_AND_LATE: Final = 0.92
"""Cars for each row the generator writes: some show up twice."""


def make(path: Path, rows: int) -> int:
    """Write about `rows` synthetic sales; returns how many."""
    from models.market.generator import Plan
    from models.runtime.market_generate import write_csv

    cars = int(rows * RELISTED_AND_LATE)
    return write_csv(Plan(1, cars, dt.date(2022, 1, 1), dt.date(2024, 12, 31)), path)


def make_apart(path: Path, rows: int) -> int:
    """The same in a process of its own: a child's peak memory is never below its parent's at the start."""
    args = [sys.executable, __file__, "--make", str(path), "--sales", str(rows)]
    done = subprocess.run(
        args, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return int(done.stdout)


def timed(*args: str | Path) -> dict[str, Any]:
    """Run `holdfast market ...`: wall seconds, seconds of processor, peak memory in MiB, what it printed."""
    command = [sys.executable, "-m", "models", "market", *map(str, args)]
    started = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        out = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"holdfast market {args[0]} ended with {child.returncode}")
    return {
        "wall_s": round(wall, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
        "out": out.decode(),
    }


def market(folder: Path, scale: float) -> Iterator[Row]:
    """One ingest of a million synthetic sales; peak memory; the same file again, which adds nothing."""
    file, into = folder / "sales.csv", folder / "market"
    rows = make_apart(file, max(int(SALES * scale), 1_000))
    first = timed("ingest", file, "--into", into, "--json")
    again = timed("ingest", file, "--into", into, "--json")
    if json.loads(again["out"])[0]["added"]:
        raise RuntimeError("the same file added rows the second time")
    seconds, peak = first["wall_s"] * SALES / rows, first["peak_mib"]
    yield Row("market_ingest_of_a_million", round(seconds, 1), "s", goal="<= 60", met=seconds <= MAX_SECONDS)
    yield Row("market_ingest_memory", peak, "MiB", goal="<= 2048", met=peak <= MAX_MIB)
    yield Row("market_report", timed("report", into, "--json", "-")["wall_s"], "s")


def main() -> int:
    """Make sales in a process of its own, for `make_apart`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sales", type=int, default=SALES)
    parser.add_argument("--make", type=Path, required=True, help="write the sales, say how many, and end")
    options = parser.parse_args()
    print(make(options.make, options.sales))
    return 0


if __name__ == "__main__":
    sys.exit(main())
