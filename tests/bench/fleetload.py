"""A collector's store with a large fleet, and how fast it is read: 10,000 vehicles and a million events.

    python tests/bench/fleetload.py [--path store.db] [--vehicles 10000] [--events 1000000]

Everything in it is invented: positions lie on a spiral around a point in the North Sea, names are numbers.
The same numbers give the same store. Segments are real ones, of 50 events, signed by no known key; they go
through the collector's own projection. Most of them differ only by device, number and time, so each kind of
segment is encoded once and its head replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from cloud_sync.access import ROLE_SCOPES, Principal
from cloud_sync.collector import months
from cloud_sync.runtime import fleet, fleet_reads
from cloud_sync.runtime.projector import Projector
from cloud_sync.runtime.store import Store
from edge.event import Event, Key, Kind, stamp_value
from edge.segment import Previous, Sealed, Segment
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource
from models.verdict import Action, Cause

NOW_MS: Final = 1_796_400_000_000
"""2026-12-04T16:00:00Z: the moment at which the store is read."""
EVENTS: Final = 50
BRANCHES: Final = ("North", "South", "East", "West", "Harbour", "华东")
TENANTS: Final = ("fund", "bank", "lease", "pool")
STORY: Final = "car-00000"
"""A vehicle of the first tenant with the longest record and an incident: its story is timed."""
STORY_SEGMENTS: Final = 200
HEARTBEAT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Moment:
    """What a store says about time."""

    now_ms: int
    """Wall time of the newest events, ms."""
    heartbeat_s: int
    """After how long each heartbeat announces the next."""


def build(
    path: Path,
    vehicles: int = 10_000,
    events: int = 1_000_000,
    tenants: int = 2,
    *,
    now_ms: int = NOW_MS,
    heartbeat_s: int = HEARTBEAT_S,
) -> None:
    """Write a store at `path`: `vehicles` of the first tenant, a tenth as many of each other one.

    `events` of the first tenant, in segments of EVENTS; the first vehicle has STORY_SEGMENTS of them (a fifth
    of all where those are fewer) and an incident in the last. The newest are of `now_ms` (wall time, ms);
    each heartbeat announces the next one after `heartbeat_s` seconds.
    """
    made = Moment(now_ms, heartbeat_s)
    key = ec.generate_private_key(ec.SECP256R1())
    with Store(path) as store:
        db = store.db
        db.execute("PRAGMA synchronous=OFF")
        projector = Projector(key, SystemClock())
        with store.transaction():
            projector.migrate(db)
        for number, tenant in enumerate(TENANTS[:tenants]):
            share = 1 if number == 0 else 10
            size = max(1, vehicles // share), max(1, events // EVENTS // share)
            _tenant(store, projector, tenant, *size, made)
        db.execute("ANALYZE")


def _tenant(
    store: Store, projector: Projector, tenant: str, vehicles: int, segments: int, at_time: Moment
) -> None:
    first = min(STORY_SEGMENTS, max(1, segments // 5))
    each, rest = divmod(segments - first, max(1, vehicles - 1))
    made = 0
    for at in range(0, vehicles, 500):
        with store.transaction() as db:
            for index in range(at, min(at + 500, vehicles)):
                count = first if index == 0 else each + (index <= rest)
                for sealed in _device(tenant, index, count, at_time):
                    made += 1
                    _insert(db, projector, sealed, made)
                branch = None if index % 17 == 0 else BRANCHES[index % len(BRANCHES)]
                fleet.set_card(db, tenant, f"car-{index:05d}", f"Vehicle {index}", branch, None)


def _insert(db: sqlite3.Connection, projector: Projector, sealed: Sealed, number: int) -> None:
    segment, digest = sealed.segment, sealed.hash
    walls = [event.stamp.wall_ns for event in segment.events if event.stamp.wall_ns is not None]
    received_ms = max(walls) // 1_000_000 + 1500
    previous = segment.previous.hash if isinstance(segment.previous, Previous) else segment.previous
    db.execute(
        "INSERT INTO segments(tenant, device, run, number, hash, previous, kid, received_ms, first_seq,"
        " last_seq, clock, fork, log_index) VALUES(?,?,?,?,?,?,?,?,?,?,?,0,?)",
        (
            segment.tenant, segment.device, segment.run, segment.number, digest,
            previous if isinstance(previous, bytes) else None, sealed.kid, received_ms,
            segment.events[0].seq, segment.events[-1].seq, int(segment.clock), None,
        ),
    )  # fmt: skip
    db.execute(
        "INSERT INTO bodies(hash, tenant, device, month, month_last, size, data) VALUES(?,?,?,?,?,?,?)",
        (
            digest, segment.tenant, segment.device, *months(segment, received_ms), len(sealed.data),
            sealed.data,
        ),
    )  # fmt: skip
    for _ in projector.on_segment(db, sealed, received_ms):
        raise AssertionError("no title is bound here")


def _device(tenant: str, index: int, count: int, at_time: Moment) -> Iterator[Sealed]:
    """The last `count` segments of a vehicle: a minute each, some late, some lost, some with an incident."""
    device = f"car-{index:05d}"
    run = hashlib.sha256(f"{tenant}/{device}".encode()).digest()[:16]
    angle, far = index * 2.399963, math.sqrt(index + 1) * 0.02
    lat, lon = 55.0 + far * math.sin(angle), 3.0 + 1.7 * far * math.cos(angle)
    late_ms = 6 * 3_600_000 if index % 23 == 5 else 30_000
    begin_ms = at_time.now_ms - late_ms - count * 60_000
    previous: bytes | Previous | str = "first start"
    for number in range(count):
        if index % 41 == 7 and number == 1:
            continue
        stolen = (index == 0 or index % 10 == 3) and number == count - 1
        incident = Cause(1 + index // 10 % 5) if stolen else None
        begun_ms = begin_ms + number * 60_000
        events = tuple(_events(number, begun_ms, lat, lon, index, incident, at_time.heartbeat_s))
        segment = Segment(tenant, device, run, number, previous, ClockKind.LIVE, events)
        # Not signed: nobody verifies here, and 20,000 signatures take their time. The size is right.
        data = f"{tenant}/{device}/{number}".encode().ljust(EVENTS * 40, b".")
        sealed = Sealed(segment, data, run[:8])
        previous = sealed.hash
        yield sealed


def _events(
    number: int, begin_ms: int, lat: float, lon: float, index: int, incident: Cause | None, heartbeat_s: int
) -> Iterator[Event]:
    for step in range(EVENTS):
        seq = number * EVENTS + step
        wall_ms = begin_ms + step * 1000
        stamp = Stamp(seq * 1_000_000_000, wall_ms * 1_000_000, TimeSource.GNSS, 40)
        if step == 0:
            depth = 1500 if index % 37 == 2 else index % 4
            body = {
                Key.NEXT_HEARTBEAT_S: heartbeat_s, Key.OUTBOX_SEGMENTS: depth, Key.OUTBOX_BYTES: depth * 2000,
                Key.LOSS_WINDOW_MS: 5000, Key.SOFTWARE: "holdfast 1.0",
            }  # fmt: skip
            kind = Kind.HEARTBEAT
        elif step == 1:
            low = index % 29 == 4
            body = {
                Sig.SUPPLY_VOLTAGE: 1150 if low else 1250, Sig.CASE_OPEN: 0, Sig.POWER_STATE: 2 if low else 0,
                Key.NEXT_HEARTBEAT_S: heartbeat_s,
            }  # fmt: skip
            kind = Kind.POWER
        elif step == EVENTS - 1 and incident is not None:
            yield Event(seq, Kind.INCIDENT, stamp, _incident(incident, stamp, index))
            continue
        elif step % 10 == 5:
            body = {Sig(Sig.TYRE_PRESSURE_FL + wheel): 240 + wheel + step // 10 for wheel in range(4)}
            kind = Kind.TYRES
        elif step % 10 == 9:
            body = {Sig.VIBRATION_RMS_X: 120, Sig.VIBRATION_RMS_Y: 90, Sig.VIBRATION_RMS_Z: 150}
            body |= {Sig.VIBRATION_PEAK: 900 + step, Sig.TILT: 4}
            kind = Kind.VIBRATION
        else:
            body = {
                Sig.LATITUDE: round((lat + seq * 1e-5) * 1e4), Sig.LONGITUDE: round((lon + seq * 1e-5) * 1e4),
                Sig.SPEED: 480 + step, Sig.SATELLITES: 9, Sig.FIX_TYPE: 1,
            }  # fmt: skip
            kind = Kind.POSITION
        yield Event(seq, kind, stamp, {int(name): value for name, value in body.items()})


def _incident(cause: Cause, stamp: Stamp, index: int) -> dict[int, object]:
    return {
        int(Key.INCIDENT): 1, int(Key.CAUSE): int(cause), int(Key.ACTION): int(Action.OPENED),
        int(Key.CONFIDENCE_PERMILLE): 500 + index % 500,
        int(Key.SENTENCE): f"The car moves {index % 90 + 10} m, no wheel turns.",
        int(Key.EVIDENCE): [["position", "41 m in 20 s"], ["tyres", "not rolling"]],
        int(Key.SINCE): stamp_value(stamp),
    }  # fmt: skip


def principal(tenant: str = TENANTS[0], role: str = "operator", branches: tuple[str, ...] = ()) -> Principal:
    """Somebody of `tenant` who reads the fleet."""
    return Principal(tenant, 1, "bench", role, ROLE_SCOPES[role], frozenset(branches))


def timed(call: Callable[[], object], times: int = 5) -> float:
    """Median milliseconds of `times` calls after a first one: pages of the store are then cached."""
    call()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1000)
    return statistics.median(found)


def measure(path: Path) -> Iterator[tuple[str, float, float]]:
    """(what, milliseconds, bound) of each read of a store of `build`."""
    with Store(path, read_only=True) as store:
        db, who, now = store.db, principal(), NOW_MS

        def page(**options: object) -> dict[str, object]:
            return fleet_reads.vehicles(db, who, now_ms=now, **options)  # type: ignore[arg-type]

        yield "fleet list, first page", timed(lambda: page(limit=50)), 150.0
        yield "fleet list, 500 rows", timed(lambda: page(limit=500)), 150.0
        yield "fleet list, one branch", timed(lambda: page(branch="Harbour", limit=50)), 150.0
        yield "fleet list, searched", timed(lambda: page(q="vehicle 99", sort="name", limit=50)), 150.0
        yield "fleet list, one cause", timed(lambda: page(cause="jammed", state=["incident"])), 150.0
        cursor = page(limit=500)["next"]
        for _ in range(10):
            cursor = page(limit=500, cursor=cursor)["next"] if cursor else None
        yield "fleet list, page 12", timed(lambda: page(limit=500, cursor=cursor)), 150.0
        yield "map", timed(lambda: fleet_reads.fleet_map(db, who, now)), 300.0
        begin = now - STORY_SEGMENTS * 60_000 - 60_000
        yield "time line", timed(lambda: fleet_reads.timeline(db, who, STORY, begin, now)), 150.0
        yield "vehicle", timed(lambda: fleet_reads.vehicle(db, who, "car-00003", now)), 150.0
        yield "completeness of one", timed(lambda: fleet_reads.completeness(db, who, STORY, now)), 150.0
        month = timed(lambda: fleet_reads.completeness_list(db, who, "2026-12", limit=50, now_ms=now))
        yield "completeness of a month", month, 500.0


def main() -> int:
    """Build a store, read it, print the times; 1 when one is over its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path)
    parser.add_argument("--vehicles", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleetload-") as folder:
        path = options.path or Path(folder) / "store.db"
        if not path.exists():
            start = time.perf_counter()
            build(path, options.vehicles, options.events)
            print(f"built in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.0f} MB")
        missed = 0
        for what, ms, bound in measure(path):
            missed += ms > bound
            print(f"{what:28} {ms:8.1f} ms   (bound {bound:.0f} ms)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
