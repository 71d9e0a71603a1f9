"""kill -9 of every process of the data path while a drive is played, each with work in flight.

The oracle (tests/oracle.py, a process of its own) writes down what the edge says it accepted. Afterwards
everything accepted is in the log once and in order, nothing is in the log that was never accepted, and what
was read but not accepted is a signed tombstone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_sync.demo_options import DemoOptions
from cloud_sync.runtime.children import Child
from cloud_sync.runtime.demo import Demo
from cloud_sync.runtime.demo_config import TENANT, VEHICLE
from cloud_sync.runtime.demo_display import PlainDisplay
from edge import event as ev
from edge import segment as sg
from edge.facts import FactsError

HERE = Path(__file__).resolve().parent
KILLS_EACH = 3
MAX_UNTOLD = 64
"""Events of a run that may be logged and untold. An edge tells of a commit before it begins the next, so a
kill between the two costs the telling of one batch: what arrives in the 5 s of the loss window, and while a
loaded machine's commit lasts at SPEED, at some two events a second."""
SPEED = 40.0
VICTIMS = {
    f"{VEHICLE}-edge": "edge",
    f"{VEHICLE}-uplink": "uplink",
    "broker": "broker",
    "collector": "collect",
}


class Crashing(Demo):
    """A demo whose processes may die."""

    def config_of(self, name: str) -> Path:
        if name == "broker":
            return self.layout.broker_config
        return self.layout.collector_config if name == "collector" else self.layout.node_config(VEHICLE)

    def check_children(self) -> None:
        pass

    def in_flight(self, victim: str) -> int:
        """Work that `victim` holds or that waits on it: not yet accepted or sealed; sealed, not receipted."""
        try:
            status = self.status(VEHICLE)
        except FactsError:
            return 0
        if victim.endswith("-edge"):
            return int(status["pending"]) + int(status["outbox"]["events_unsealed"])
        return int(status["outbox"]["segments"])

    def kill_at_work(self, victim: str) -> int:
        """Wait until there is work in flight, then kill -9 at once; how much was in flight."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if flying := self.in_flight(victim):
                self.children[victim].kill()
                return flying
            time.sleep(0.002)
        return 0


def logged(store: Path) -> list[sg.Sealed]:
    """The vehicle's segments as the log holds them, in the order of their indices."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT b.data FROM segments s JOIN bodies b ON b.hash = s.hash AND b.tenant = s.tenant"
            " WHERE s.tenant = ? AND s.device = ? AND s.log_index IS NOT NULL ORDER BY s.log_index",
            (TENANT, VEHICLE),
        ).fetchall()
    return [sg.peek(data) for (data,) in rows]


def played(demo: Crashing, between: Callable[[], None]) -> None:
    """Run the world to its end; `between` is called as it goes."""
    demo.children["world"].say("go")
    while True:
        line = demo.children["world"].next_line(0.05)
        if line is not None and line.get("done"):
            return
        between()


def check(told: list[dict[str, Any]], segments: list[sg.Sealed]) -> None:
    """The contract: told is in the log, once, in order; nothing invented; what died is a tombstone."""
    by_run: dict[bytes, list[sg.Segment]] = defaultdict(list)
    for sealed in segments:
        by_run[sealed.segment.run].append(sealed.segment)
    in_log: dict[tuple[str, int], str] = {}
    tombs = [t for sealed in segments for t in sealed.segment.tombstones]
    assert all(t.reason is sg.Lost.CRASH for t in tombs)
    for run, parts in by_run.items():
        parts.sort(key=lambda s: s.number)
        assert [s.number for s in parts] == list(range(len(parts))), "a segment of the run is missing"
        events = [event for s in parts for event in s.events]
        assert [event.seq for event in events] == list(range(len(events))), "events missing or out of order"
        monos = [event.stamp.mono_ns for event in events]
        assert monos == sorted(monos)
        for event in events:
            key = (run.hex(), event.seq)
            assert key not in in_log, "logged twice"
            in_log[key] = hashlib.sha256(ev.encode(event)).hexdigest()
    last_told: dict[str, int] = defaultdict(lambda: -1)
    for line in told:
        assert in_log.get((line["run"], line["seq"])) == line["sha256"], f"accepted, not logged: {line}"
        last_told[line["run"]] = max(last_told[line["run"]], line["seq"])
    told_keys = {(line["run"], line["seq"]) for line in told}
    untold: dict[str, int] = defaultdict(int)
    for run_hex, seq in in_log.keys() - told_keys:
        assert seq > last_told[run_hex], "in the log, yet an edge that told of later events never told of it"
        untold[run_hex] += 1
    assert all(count <= MAX_UNTOLD for count in untold.values()), (
        f"more than one batch was logged and never told: {dict(untold)}"
    )
    for tomb in tombs:
        assert (tomb.run.hex(), tomb.first - 1) in in_log or tomb.first == 0
        assert (tomb.run.hex(), tomb.first) not in in_log, "both lost and logged"
        assert tomb.count == tomb.last - tomb.first + 1


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kill_nine_of_everybody(short_dir: Path, shared_drive: Path | None) -> None:
    seed = int(os.environ.get("HOLDFAST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"HOLDFAST_SEED={seed}")
    rng = random.Random(seed)
    oracle_socket, told_file = short_dir / "oracle.sock", short_dir / "told.jsonl"
    options = DemoOptions(speed=SPEED, headless=True, replay=shared_drive, scenario="quiet")
    demo = Crashing(options, short_dir, PlainDisplay(), acceptance=oracle_socket)
    for folder in (demo.layout.logs, demo.layout.world):
        folder.mkdir()
    oracle = Child(
        "oracle", [str(HERE / "oracle.py"), str(oracle_socket), str(told_file)], short_dir / "oracle.log"
    )
    plan = [name for name in VICTIMS for _ in range(KILLS_EACH)]
    rng.shuffle(plan)
    in_flight: dict[str, list[int]] = defaultdict(list)
    due = [time.monotonic()]

    def between() -> None:
        if not plan or time.monotonic() < due[0]:
            return
        victim = plan.pop()
        in_flight[victim].append(demo.kill_at_work(victim))
        time.sleep(rng.uniform(0.0, 0.5))
        demo.command(victim, VICTIMS[victim], demo.config_of(victim))
        due[0] = time.monotonic() + rng.uniform(0.2, 1.5)

    try:
        oracle.wait_ready()
        demo.start_world()
        demo.start_system()
        due[0] = time.monotonic() + rng.uniform(0.5, 2.0)
        played(demo, between)
        states = demo.drain()
        demo.stop()
        time.sleep(0.2)
    finally:
        demo.stop()
        oracle.stop()
    assert not plan, f"the drive was over before {plan} could be killed"
    assert {name: len(kills) for name, kills in in_flight.items()} == dict.fromkeys(VICTIMS, KILLS_EACH)
    assert all(min(kills) > 0 for kills in in_flight.values()), (
        f"a kill found nothing in flight: {dict(in_flight)}"
    )
    assert states[VEHICLE]["outbox"]["segments"] == 0, "a segment was never receipted"
    told = [json.loads(line) for line in told_file.read_text("utf-8").splitlines()]
    segments = logged(demo.layout.collector / "store.db")
    last_run = states[VEHICLE]["run"]
    check(
        [line for line in told if line["run"] != last_run or line["seq"] < states[VEHICLE]["events"]],
        segments,
    )
    assert len({sealed.segment.run for sealed in segments}) == KILLS_EACH + 1
    print(f"in flight at each kill: {dict(in_flight)}; {len(told)} accepted, {len(segments)} segments")
    verified = verify_offline(demo)
    assert verified["exit_code"] == 0


def verify_offline(demo: Crashing) -> dict[str, Any]:
    """`holdfast verify` over the whole chain: signatures, links across the runs, tombstones, proofs."""
    from cloud_sync.runtime import bundles

    bundle = demo.layout.home / "chain.hfb"
    bundles.export_device(demo.layout.collector_config, TENANT, VEHICLE, bundle)
    trust = demo.layout.node(VEHICLE) / "trust.json"
    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge", "verify", str(bundle), "--trust", str(trust), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {**json.loads(done.stdout), "exit_code": done.returncode}
