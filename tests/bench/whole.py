"""The whole system as the demo runs it: seven processes, real ptys, TLS, two databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rows import Row

SWISS: Final = "gps/20100403_Z205_Switzerland.txt"
GOAL_SWISS_S: Final = 180
GOAL_EDGE_MB: Final = 80
ROOT: Final = Path(__file__).resolve().parent.parent.parent


def demo(folder: Path, *options: str) -> dict[str, Any]:
    """Run the demo on every core there is; its JSON. Raises RuntimeError when a check failed."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "firmware_bridge", "demo", "--headless", "--json", "demo.json", *options],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.sched_setaffinity(0, mine)
    if done.returncode != 0:
        raise RuntimeError(f"the demo failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    document: dict[str, Any] = json.loads((folder / "demo.json").read_text("utf-8"))
    return document


def whole(folder: Path) -> Iterator[Row]:
    """The default scenario; and the 2.95 h drive at the highest speed where the shared data is."""
    runs = {"default": demo(folder)}
    shared = Path(os.environ.get("HOLDFAST_SHARED", ROOT.parent / "shared")) / "data" / SWISS
    if shared.exists():
        swiss = runs["swiss"] = demo(folder, "--replay", str(shared))
        played = swiss["played_s"]
        yield Row(
            "swiss_drive_whole_system",
            played,
            "s for 2.95 h",
            goal=f"<= {GOAL_SWISS_S}",
            met=played <= GOAL_SWISS_S,
        )
        yield Row(
            "swiss_drive_times_real_time", round(swiss["scenario_s"] / played, 1), "x real time, whole system"
        )
    else:
        print(f"skipped: the Swiss drive is not here ({shared.name}): set HOLDFAST_SHARED")
    yield Row("default_scenario_whole_system", runs["default"]["played_s"], "s for 8.7 h")
    for name, run in runs.items():
        edge = max(p["rss_mb"] for p in run["processes"] if p["name"].endswith("-edge"))
        yield Row(
            f"edge_rss_{name}", edge, "MB, largest seen", goal=f"< {GOAL_EDGE_MB}", met=edge < GOAL_EDGE_MB
        )
    for incident in runs["default"]["incidents"]:
        yield Row(f"detect_{incident['cause']}", incident["detect_s"], "s of scenario time, simulated")
