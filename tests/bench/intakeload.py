"""What the collector takes: segments verified, stored, projected, logged, receipted; what projecting costs.

The same signed segments go into new stores in turn: as the collector takes them, without projections (its
incidents and the fleet), and as bare inserts into the same tables, which is what SQLite alone costs.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rows import Row, against

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cloudkit import Device, Kit, make_kit

from cloud_sync.collector import Message, months
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.collectord import open_intake
from cloud_sync.runtime.store import Store
from edge.event import Event, Kind
from edge.segment import Sealed
from firmware_bridge.wire.signals import Sig

SEGMENTS: Final = 2000
MIN_SEGMENTS: Final = 200
EVENTS: Final = 50
BATCH: Final = 100
"""Segments of one transaction; the collector takes up to 500 where so many wait."""
TIMES: Final = 3


def intake(folder: Path, scale: float = 1.0) -> Iterator[Row]:
    """Events a second into the collector's store, fsync at every commit."""
    kit = make_kit(folder / "lab")
    sealed = _segments(kit, max(MIN_SEGMENTS, round(SEGMENTS * scale)))
    ways: dict[str, Callable[[Kit, Sequence[tuple[Message, Sealed]]], None]] = {
        "projected": lambda store, what: _collect(store, what, projected=True),
        "plain": lambda store, what: _collect(store, what, projected=False),
        "inserted": _insert,
    }
    wall, cpu = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    events = len(sealed) * EVENTS
    for attempt in range(TIMES):  # in turn, so that a busy minute of the machine meets all of them
        for name, way in ways.items():
            home = folder / f"{name}{attempt}"
            home.mkdir()
            config = dataclasses.replace(kit.config, store=home / "store.db")
            begun, used = time.perf_counter(), time.process_time()
            way(dataclasses.replace(kit, config=config), sealed)
            wall[name] = max(wall[name], events / (time.perf_counter() - begun))
            cpu[name] = max(cpu[name], events / (time.process_time() - used))
    unit = f"events/s, SQLite FULL, segments of {EVENTS}, {BATCH} at once"
    peer = "without projections"
    yield against("intake_events_per_s", wall["projected"], unit, peer, wall["plain"])
    yield against("intake_cpu_events_per_s", cpu["projected"], "events/s of CPU time", peer, cpu["plain"])
    yield against("intake_sqlite_share", wall["projected"], unit, "bare inserts", wall["inserted"])


def _segments(kit: Kit, count: int) -> list[tuple[Message, Sealed]]:
    devices = [kit.device("car-1"), kit.device("car-2")]
    made = []
    for number in range(count):
        one = devices[number % len(devices)]
        incident = [one.incident(number)] if number % 100 == 99 else []
        events = [_event(one, step) for step in range(EVENTS - len(incident))] + incident
        sealed = one.seal(events)
        made.append((one.message(sealed), sealed))
    return made


def _event(one: Device, step: int) -> Event:
    """A minute of driving: mostly positions."""
    if step == 0:
        return one.event()
    if step == 1:
        return one.event(Kind.POWER, {Sig.SUPPLY_VOLTAGE: 1250, Sig.CASE_OPEN: 0, Sig.POWER_STATE: 0})
    if step % 10 == 5:
        return one.event(Kind.TYRES, {Sig(Sig.TYRE_PRESSURE_FL + wheel): 240 + wheel for wheel in range(4)})
    if step % 10 == 9:
        return one.event(Kind.VIBRATION, {Sig.VIBRATION_RMS_X: 120, Sig.VIBRATION_PEAK: 900, Sig.TILT: 4})
    place: dict[int, object] = {Sig.LATITUDE: 471200 + step, Sig.LONGITUDE: 85400, Sig.SPEED: 523}
    return one.event(Kind.POSITION, place | {Sig.FIX_TYPE: 1, Sig.SATELLITES: 9})


def _batches(sealed: Sequence[tuple[Message, Sealed]]) -> Iterator[Sequence[tuple[Message, Sealed]]]:
    for at in range(0, len(sealed), BATCH):
        yield sealed[at : at + BATCH]


def _collect(kit: Kit, sealed: Sequence[tuple[Message, Sealed]], *, projected: bool) -> None:
    store, _, taking = open_intake(kit.config, load_keys(kit.config), kit.clock)
    with store:
        if not projected:
            taking._projector = None
        for batch in _batches(sealed):
            outcome, receipts = taking.process([message for message, _ in batch])
            if outcome.accepted != len(batch) or outcome.alarms or not receipts:
                raise RuntimeError(f"the collector did not take the batch: {outcome}")
        shown = store.db.execute("SELECT count(*) FROM incidents").fetchone()[0]
        if bool(shown) is not projected:
            raise RuntimeError(f"{shown} incidents in a store whose intake projects: {projected}")


def _insert(kit: Kit, sealed: Sequence[tuple[Message, Sealed]]) -> None:
    with Store(kit.config.store) as store:
        for batch in _batches(sealed):
            with store.transaction() as db:
                for _, one in batch:
                    _insert_one(db, one, kit.clock.wall_ms)


def _insert_one(db: sqlite3.Connection, one: Sealed, now_ms: int) -> None:
    segment = one.segment
    previous = segment.previous if isinstance(segment.previous, bytes) else None
    db.execute(
        "INSERT INTO segments(tenant, device, run, number, hash, previous, kid, received_ms, first_seq,"
        " last_seq, clock, fork) VALUES(?,?,?,?,?,?,?,?,?,?,?,0)",
        (
            segment.tenant, segment.device, segment.run, segment.number, one.hash, previous, one.kid, now_ms,
            segment.events[0].seq, segment.events[-1].seq, int(segment.clock),
        ),
    )  # fmt: skip
    db.execute(
        "INSERT INTO bodies(hash, tenant, device, month, month_last, size, data) VALUES(?,?,?,?,?,?,?)",
        (one.hash, segment.tenant, segment.device, *months(segment, now_ms), len(one.data), one.data),
    )
