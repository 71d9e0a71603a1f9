"""Measure speeds and sizes; print them and write bench.json. Run: `make bench`.

    python tests/bench/run.py [--out bench.json] [--only NAME]

Every figure is measured in this run on this machine, a peer's figure in the same run on the same input.
Each row: name, value, unit, peer, peer_value, ratio (value / peer_value), goal, met. The exit code is 1
when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import daily
import ledgers
import pages
import paths
import sensors
import whole
from rows import Row

ROOT = Path(__file__).resolve().parent.parent.parent
MEASURES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "nmea": sensors.nmea,
    "pipeline": paths.pipeline,
    "cose": paths.cose_sign1,
    "outbox": paths.outbox,
    "log": ledgers.log,
    "titles": ledgers.titles,
    "day": daily.day,
    "page": pages.page,
    "live": pages.live,
    "enrolments": pages.enrolments,
    "whole": whole.whole,
}


def main() -> int:
    """Measure what is asked for; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    parser.add_argument("--only", choices=sorted(MEASURES), action="append")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # "on one core" means one
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    scratch = ROOT / "build"
    scratch.mkdir(exist_ok=True)
    rows: list[Row] = []
    for name in options.only or MEASURES:
        # Not /tmp: where that is memory, a commit would cost nothing.
        with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as folder:
            for row in MEASURES[name](Path(folder)):
                rows.append(row)
                print(row.line(), flush=True)
    options.out.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n", "utf-8")
    missed = [row.name for row in rows if row.met is False]
    print(f"{options.out}: {len(rows)} figures" + (f", goals missed: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
