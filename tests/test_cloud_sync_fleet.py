"""The fleet's projection: newest state, record and track, whatever the order in which segments come."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudkit import START_MS, TENANT, Device, Kit, make_kit
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync import fleet as told
from cloud_sync.collector import Message
from cloud_sync.runtime import fleet, projector
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.erase import erase_month, signer
from cloud_sync.runtime.projector import Projector
from cloud_sync.runtime.store import Store
from edge import segment as sg
from edge.event import Event, Key, Kind
from edge.segment import Lost, Sealed, Tombstone
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import Stamp, TimeSource

KEY = ec.generate_private_key(ec.SECP256R1())
LATER_MS = START_MS + 86_400_000
DECEMBER_MS = 1_796_083_200_000
"""2026-12-01T00:00:00Z."""
DERIVED = ("vehicles", "vehicle_runs", "track", "tombs", "record_gaps", "record_months", "vehicle_certs")


def car(name: str = "car-1", tenant: str = TENANT) -> Device:
    return Device(tenant, name, KEY, run=name.encode().ljust(16, b"\x01")[:16])


def open_db() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    projector.migrate(db)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = open_db()
    yield connection
    connection.close()


def feed(db: sqlite3.Connection, *segments: Sealed, at_ms: int = LATER_MS) -> None:
    hook = Projector(KEY, SystemClock())
    for sealed in segments:
        assert hook.on_segment(db, sealed, at_ms) == []


def row(db: sqlite3.Connection, device: str = "car-1", tenant: str = TENANT) -> dict[str, Any]:
    cursor = db.execute("SELECT * FROM vehicles WHERE tenant=? AND device=?", (tenant, device))
    return dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))


def tables(db: sqlite3.Connection, names: Iterable[str] = DERIVED) -> dict[str, list[Any]]:
    return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


def gaps(db: sqlite3.Connection) -> list[tuple[int, int, str, str | None]]:
    return db.execute(
        "SELECT first, last, month, month_after FROM record_gaps ORDER BY run, first"
    ).fetchall()


def at(device: Device, lat: float, lon: float, kmh: float = 50.0) -> Event:
    body = {Sig.LATITUDE: round(lat * 1e4), Sig.LONGITUDE: round(lon * 1e4), Sig.SPEED: round(kmh * 10)}
    return device.event(Kind.POSITION, {int(key): value for key, value in body.items()})


def power(device: Device, state: int, next_s: int, volts: float = 12.5) -> Event:
    body = {Sig.SUPPLY_VOLTAGE: round(volts * 100), Sig.CASE_OPEN: 0, Sig.POWER_STATE: state}
    return device.event(
        Kind.POWER, {**{int(k): v for k, v in body.items()}, int(Key.NEXT_HEARTBEAT_S): next_s}
    )


def beat(device: Device, next_s: int | None = 60, depth: int = 0) -> Event:
    body: dict[int, object] = {
        int(Key.OUTBOX_SEGMENTS): depth, int(Key.OUTBOX_BYTES): depth * 2000, int(Key.SOFTWARE): "1.2",
        int(Key.LOSS_WINDOW_MS): 5000,
    }  # fmt: skip
    if next_s is not None:
        body[int(Key.NEXT_HEARTBEAT_S)] = next_s
    return device.event(Kind.HEARTBEAT, body)


def life() -> list[Sealed]:
    """Two runs over the turn of a month, with holes, tombstones, incidents and a depth that grows."""
    device = car()
    device.wall_ms = DECEMBER_MS - 90_000
    made = [
        device.seal(
            [device.event(Kind.RUN_START, {int(Key.NEXT_HEARTBEAT_S): 60}), at(device, 47.123, 8.567)]
        ),
        device.seal([beat(device, depth=60), power(device, 0, 60), device.incident()]),
    ]
    device.seal(40)  # lost without a word
    made.append(device.seal([beat(device, depth=70), at(device, 47.2, 8.6, 3.0)]))
    device.seal(3)  # thinned
    device.seal(2)
    stone = Tombstone(Lost.THINNED, device.run, 4, 5, 5, 0, 1, b"", b"")
    crash = Tombstone(Lost.CRASH, device.run, 900, 903, 4, 0, 1, b"", b"")
    device.wall_ms = DECEMBER_MS + 1000
    made.append(device.seal([beat(device, depth=80), power(device, 1, 21_600)], tombstones=[stone, crash]))
    device.seal(1)
    device.seal(1)  # the next run names this one; it never comes
    device.restart()
    device.wall_ms = DECEMBER_MS + 600_000
    made.append(device.seal([device.event(Kind.RUN_START, {int(Key.NEXT_HEARTBEAT_S): 60})]))
    made.append(device.seal([beat(device, depth=3), at(device, 47.31, 8.7)]))
    return made


def test_one_segment_says_where_the_vehicle_is_and_when_it_speaks_next(db: sqlite3.Connection) -> None:
    device = car()
    feed(
        db,
        device.seal([at(device, 47.12345, 8.56789, 62.0), power(device, 0, 60, 12.34), beat(device, 60, 7)]),
    )
    vehicle = row(db)
    assert (vehicle["lat"], vehicle["lon"], vehicle["moving"]) == (47.12, 8.57, 1)
    assert (vehicle["place_ms"], vehicle["place_unc"], vehicle["place_source"]) == (START_MS, 100, "gnss")
    assert (vehicle["power"], vehicle["supply"], vehicle["software"], vehicle["loss_ms"]) == (
        "driving", 12.34, "1.2", 5000,
    )  # fmt: skip
    assert (vehicle["depth"], vehicle["depth_bytes"]) == (7, 14_000)
    assert vehicle["due_ms"] == START_MS + 2000 + 60_000 + fleet.GRACE_MS
    assert (vehicle["event_ms"], vehicle["event_source"]) == (START_MS + 2000, "gnss")
    assert (vehicle["segments"], vehicle["events"], vehicle["runs"]) == (1, 3, 1)
    lanes = json.loads(db.execute("SELECT lanes FROM track").fetchone()[0])
    assert lanes == {
        "p": [47.12, 8.57, START_MS, 100, "gnss", None],
        "s": 62,
        "r": [None, None],
        "u": 12.34,
        "c": 0,
        "w": "driving",
    }


def test_nothing_finer_than_a_kilometre_is_kept(db: sqlite3.Connection) -> None:
    device = car()
    feed(db, device.seal([at(device, 47.1234, 8.5678)]), device.seal([device.incident()]))
    text = json.dumps([list(map(repr, rows)) for rows in tables(db).values()])
    assert "47.12" in text and "47.123" not in text and "8.567" not in text


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(chance: random.Random) -> None:
    segments = life()
    expected = open_db()
    feed(expected, *segments)
    shuffled = [*segments, *chance.sample(segments, 3)]
    chance.shuffle(shuffled)
    got = open_db()
    feed(got, *shuffled)
    assert tables(got) == tables(expected)
    names = ("incidents", "incident_changes", "cases")
    assert tables(got, names) == tables(expected, names)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 14), unique=True, min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 4)), max_size=3),
    st.none() | st.integers(0, 16),
    st.randoms(use_true_random=False),
)
def test_gaps_are_what_is_neither_here_nor_told(
    numbers: list[int], stones: list[tuple[int, int]], claim: int | None, chance: random.Random
) -> None:
    """Against a set of numbers, in any order, over three months."""
    device, other = car(), b"\x02" * 16
    stone_at = numbers[0]
    made = []
    for number in numbers:
        device.number, device.seq = number, number * 10
        device.wall_ms = DECEMBER_MS + (number - 5) * 10 * 86_400_000
        told_missing = [
            Tombstone(Lost.THINNED, device.run, first, first + more, 1, 0, 1, b"", b"")
            for first, more in stones
        ]
        device.previous = bytes(32) if number else "first start"
        made.append(device.seal(1, tombstones=told_missing if number == stone_at else ()))
    if claim is not None:
        previous = sg.Previous(device.run, claim, bytes(32))
        device.run, device.number, device.previous = other, 0, previous
        made.append(device.seal(1))
    covered = {number for first, more in stones for number in range(first, first + more + 1)}
    known = set(numbers) | covered
    top = max(known | ({claim} if claim is not None else set()))
    expected = [number for number in range(top) if number not in known]
    if top not in known:
        expected.append(top)
    seen = None
    for _ in range(2):
        chance.shuffle(made)
        db = open_db()
        feed(db, *made, at_ms=LATER_MS + 300 * 86_400_000)
        found = [n for first, last, *_ in gaps(db) for n in range(first, last + 1)]
        assert found == expected
        assert row(db)["missing"] == len(expected)
        assert seen is None or seen == tables(db)
        assert all(month for _, _, month, _ in gaps(db))
        seen = tables(db)
        db.close()


def test_a_hole_belongs_to_the_month_before_it(db: sqlite3.Connection) -> None:
    feed(db, *life())
    assert gaps(db) == [(2, 2, "2026-11", "2026-11"), (7, 8, "2026-12", "2026-12")]
    months = db.execute(
        "SELECT month, segments, tombstones, thinned, crashed, refused FROM record_months ORDER BY 1"
    ).fetchall()
    assert months == [("2026-11", 3, 0, 0, 0, 0), ("2026-12", 3, 2, 5, 4, 0)]
    assert row(db)["missing"] == 3


def test_an_older_segment_never_overwrites_a_newer_one(db: sqlite3.Connection) -> None:
    device = car()
    old = [device.seal([at(device, 10.0, 10.0), beat(device, 60, 9), power(device, 2, 60)]) for _ in range(3)]
    alarm = device.seal(
        [at(device, 20.0, 20.0), beat(device, 60, 1), power(device, 0, 60), device.incident()]
    )
    feed(db, alarm)
    before = row(db)
    feed(db, *old, at_ms=LATER_MS + 60_000)
    after = row(db)
    counted = ("segments", "events", "heard_ms", "missing")
    assert {k: v for k, v in after.items() if k not in counted} == {
        k: v for k, v in before.items() if k not in counted
    }
    assert (before["missing"], after["missing"], after["segments"]) == (3, 0, 4)


def test_a_date_that_has_not_come_is_no_date(db: sqlite3.Connection) -> None:
    device = car()
    good = device.seal([at(device, 10.0, 10.0)])
    device.wall_ms = LATER_MS + 3_600_000
    ahead = device.seal([at(device, 20.0, 20.0)])
    feed(db, ahead, good)
    vehicle = row(db)
    # Its number says that it is the newer of the two; its date is not believed.
    assert (vehicle["lat"], vehicle["place_ms"], vehicle["place_unc"]) == (20.0, LATER_MS, None)
    assert (vehicle["place_source"], vehicle["event_source"]) == ("received", "received")
    assert db.execute("SELECT max(end_ms) FROM track").fetchone()[0] == LATER_MS


def test_a_device_that_knows_no_time(db: sqlite3.Connection) -> None:
    device = car()
    stamp = Stamp(5, None, TimeSource.NONE, 0)
    feed(db, device.seal([Event(0, Kind.HEARTBEAT, stamp, {int(Key.NEXT_HEARTBEAT_S): 60})]))
    vehicle = row(db)
    assert (vehicle["event_ms"], vehicle["event_unc"], vehicle["event_source"]) == (
        LATER_MS,
        None,
        "received",
    )
    assert vehicle["due_ms"] == LATER_MS + 60_000 + fleet.GRACE_MS


def test_the_newest_run_is_the_one_with_the_latest_time(db: sqlite3.Connection) -> None:
    device = car()
    first = device.seal([at(device, 1.0, 1.0), power(device, 2, 60)])
    old_run = device.run
    device.restart()
    device.wall_ms += 3_600_000
    second = device.seal([at(device, 2.0, 2.0)])
    for order in ((first, second), (second, first)):
        with open_db() as fresh:
            feed(fresh, *order)
            vehicle = row(fresh)
            assert (vehicle["lat"], vehicle["runs"]) == (2.0, 2)
            assert vehicle["run"] == device.run != old_run
            assert vehicle["power"] == "low_battery"  # the newer run has not said anything of it yet
            assert vehicle["due_ms"] is None or vehicle["due_ms"] < START_MS + 600_000


def test_announced_sleep_moves_the_next_heartbeat(db: sqlite3.Connection) -> None:
    device = car()
    feed(db, device.seal([power(device, 1, 21_600), beat(device, 60)]))
    assert row(db)["due_ms"] == START_MS + 21_600_000 + fleet.GRACE_MS
    feed(db, device.seal([power(device, 0, 60), beat(device, 60)]))
    assert row(db)["due_ms"] == START_MS + 3000 + 60_000 + fleet.GRACE_MS


def test_an_orderly_end_promises_nothing(db: sqlite3.Connection) -> None:
    device = car()
    feed(db, device.seal([power(device, 1, 21_600), beat(device, None)]))
    assert (row(db)["due_ms"], row(db)["stopped"]) == (None, 1)
    device.restart()
    device.wall_ms += 60_000
    feed(db, device.seal([beat(device, 60)]))
    assert row(db)["stopped"] == 0 and row(db)["due_ms"] is not None


def test_an_outbox_that_grows_is_seen_in_any_order() -> None:
    for order in itertools.permutations(range(3)):
        with open_db() as db:
            device = car()
            made = [device.seal([beat(device, depth=depth)]) for depth in (60, 70, 80)]
            feed(db, *(made[i] for i in order))
            assert (row(db)["depth"], row(db)["growing"]) == (80, 1)


ODD: tuple[dict[int, Any], ...] = (
    {}, {1: "x", 2: None}, {1: 10**12, 2: 5}, {1: True, 2: True}, {4: 10**15}, {16: -(10**9), 48: "12"},
    {int(Key.NEXT_HEARTBEAT_S): -1}, {int(Key.NEXT_HEARTBEAT_S): 2**62}, {int(Key.OUTBOX_SEGMENTS): 2**63},
    {int(Key.SOFTWARE): b"x"}, {36: [1], 32: {}, 50: 77}, {int(Key.SOFTWARE): "\x1b[31m" + "z" * 3000},
)  # fmt: skip


@pytest.mark.parametrize("kind", list(Kind))
def test_whatever_a_body_holds_nothing_raises(kind: Kind, db: sqlite3.Connection) -> None:
    device = car()
    for seq, body in enumerate(ODD):
        device.seal([Event(seq, kind, Stamp(0, START_MS * 10**6, TimeSource.GNSS, 2**62), body)])
    feed(db, *device.sealed)
    vehicle = row(db)
    assert (vehicle["segments"], vehicle["lat"], vehicle["event_unc"]) == (len(ODD), None, None)
    assert "\x1b" not in (vehicle["software"] or "") and len(vehicle["software"] or "") <= 80


def test_numbers_no_database_counts_are_left_out(db: sqlite3.Connection) -> None:
    device = car()
    feed(db, device.seal(1))
    device.number = 2**40
    feed(db, device.seal(1))
    stone = Tombstone(Lost.THINNED, device.run, 3, 2**50, 2**60, 0, 1, b"", b"")
    device.number = 1
    feed(db, device.seal(1, tombstones=[stone]))
    assert (row(db)["segments"], row(db)["missing"], gaps(db)) == (2, 0, [])


def test_two_tenants_with_one_device_name_stay_apart(db: sqlite3.Connection) -> None:
    ours, theirs = car(), car(tenant="bank")
    feed(db, ours.seal([at(ours, 1.0, 1.0)]), theirs.seal([at(theirs, 2.0, 2.0)]), theirs.seal(1))
    assert (row(db)["lat"], row(db)["segments"]) == (1.0, 1)
    assert (row(db, tenant="bank")["lat"], row(db, tenant="bank")["segments"]) == (2.0, 2)


def test_the_feed_holds_one_row_a_vehicle_and_every_incident(db: sqlite3.Connection) -> None:
    device, other = car(), car("car-2")
    feed(db, *(device.seal(1) for _ in range(5)), other.seal(1), device.seal([device.incident()]))
    ref = f"car-1.{device.run.hex()}.1"
    assert db.execute("SELECT kind, device, ref FROM feed ORDER BY id").fetchall() == [
        ("vehicle", "car-2", "car-2"), ("incident", "car-1", ref), ("vehicle", "car-1", "car-1"),
    ]  # fmt: skip


def test_the_feed_is_bounded(db: sqlite3.Connection) -> None:
    for number in range(50):
        fleet.add_feed(db, TENANT, "log", "", str(number), START_MS)
    fleet.prune(db, 20)
    assert db.execute("SELECT min(id), max(id), count(*) FROM feed").fetchone() == (31, 50, 20)
    assert db.execute("SELECT value FROM feed_state").fetchone() == (30,)
    fleet.prune(db, 20)
    assert db.execute("SELECT count(*) FROM feed").fetchone() == (20,)
    assert fleet.add_feed(db, TENANT, "log", "", "x", START_MS) == 51


def test_the_feed_prunes_itself(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_FEED", 10)
    monkeypatch.setattr(fleet, "PRUNE_EVERY", 8)
    for _ in range(64):
        fleet.add_feed(db, TENANT, "log", "", "", START_MS)
    assert db.execute("SELECT count(*) FROM feed").fetchone() == (10,)


def test_cards_keep_what_is_not_named(db: sqlite3.Connection) -> None:
    fleet.set_card(db, TENANT, "car-1", " Straße 7 ", "North", "keys in the office")
    fleet.set_card(db, TENANT, "car-1", None, "South", None)
    card = "SELECT name, branch, note, name_key FROM cards WHERE tenant=? AND device='car-1'"
    assert db.execute(card, (TENANT,)).fetchone() == ("Straße 7", "South", "keys in the office", "strasse 7")
    fleet.set_card(db, TENANT, "car-1", "", "", "")
    assert db.execute(card, (TENANT,)).fetchone() == (None, None, "", None)
    assert db.execute(card, ("bank",)).fetchone() is None


# --- in a collector's store ------------------------------------------------------------------------------


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


def months_of(store: Store) -> list[Any]:
    return store.db.execute(
        "SELECT device, month, segments, erased FROM record_months ORDER BY 1, 2"
    ).fetchall()


def test_a_certificate_is_read_once_and_its_end_is_known(kit: Kit) -> None:
    with kit.collector() as (store, _, intake):
        intake.process(kit.device("car-1").messages(3))
        [(until,)] = store.db.execute("SELECT until_ms FROM vehicle_certs").fetchall()
        assert row(store.db)["certificate_ms"] == until > START_MS


def test_erasing_a_month_takes_track_tombstones_and_the_last_position(kit: Kit) -> None:
    with kit.collector() as (store, _, intake):
        device = kit.device("car-1")
        device.wall_ms = DECEMBER_MS - 60_000
        stone = Tombstone(Lost.CRASH, device.run, 1, 2, 2, 0, 1, b"", b"")
        parts = [device.seal([at(device, 47.77, 8.88), power(device, 1, 60), beat(device, 60, 5)])]
        parts.append(device.seal([at(device, 47.78, 8.89)], tombstones=[stone]))
        intake.process([device.message(part) for part in parts])
        sign = signer(load_keys(kit.config).ledger, START_MS)
        erased = erase_month(store, TENANT, "car-1", "2026-11", "asked", sign=sign, wall_ms=START_MS)
        assert erased.segments == 2 and erased.rows >= 3
        vehicle = row(store.db)
        for name in ("lat", "place_ms", "event_ms", "due_ms", "supply", "software", "depth"):
            assert vehicle[name] is None, name
        assert (vehicle["power"], vehicle["erased"], vehicle["segments"]) == ("unknown", 2, 2)
        dump = json.dumps([list(map(repr, rows)) for rows in tables(store.db).values()])
        assert "47.7" not in dump and "8.8" not in dump
        assert store.db.execute("SELECT count(*) FROM tombs").fetchone() == (0,)
        assert months_of(store) == [("car-1", "2026-11", 2, 2)]

        # What comes afterwards is shown; what was erased does not come back by being sent again.
        outcome, _ = intake.process([device.message(part) for part in parts])
        assert outcome.duplicates == 2 and row(store.db)["lat"] is None
        device.wall_ms = START_MS
        intake.process([device.message(device.seal([at(device, 1.0, 1.0)]))])
        assert (row(store.db)["lat"], row(store.db)["missing"], row(store.db)["erased"]) == (1.0, 0, 2)


def test_erasing_one_month_leaves_the_other(kit: Kit) -> None:
    with kit.collector() as (store, _, intake):
        device, other = kit.device("car-1"), kit.device("car-2")
        device.wall_ms = other.wall_ms = DECEMBER_MS - 60_000
        messages = [device.message(device.seal([at(device, 1.0, 1.0)])), *other.messages(1)]
        device.wall_ms = START_MS
        messages.append(device.message(device.seal([at(device, 2.0, 2.0)])))
        intake.process(messages)
        before = row(store.db, "car-2")
        sign = signer(load_keys(kit.config).ledger, START_MS)
        erase_month(store, TENANT, "car-1", "2026-11", "asked", sign=sign, wall_ms=START_MS)
        assert (row(store.db)["lat"], row(store.db)["erased"]) == (2.0, 1)
        assert row(store.db, "car-2") == before
        lanes = store.db.execute("SELECT month, lanes IS NULL FROM track WHERE device='car-1' ORDER BY 1")
        assert lanes.fetchall() == [("2026-11", 1), ("2026-12", 0)]


def test_an_older_store_is_projected_at_the_first_start(kit: Kit) -> None:
    made: list[Message] = []
    with kit.collector() as (store, _, intake):
        device, other = kit.device("car-1"), kit.device("car-2")
        device.wall_ms = DECEMBER_MS - 60_000
        made += [device.message(device.seal([at(device, 1.0, 1.0)]))]
        device.wall_ms = START_MS
        made += [device.message(device.seal([beat(device), device.incident()])), *other.messages(2)]
        device.seal(1)
        made += [device.message(device.seal([at(device, 2.0, 2.0)]))]
        intake.process(made)
        sign = signer(load_keys(kit.config).ledger, START_MS)
        erase_month(store, TENANT, "car-1", "2026-11", "asked", sign=sign, wall_ms=START_MS)
        names = (*DERIVED, "incidents", "incident_changes", "cases")
        expected = tables(store.db, names)
        with store.transaction() as db:
            for name in (*DERIVED, "feed", "cases"):
                db.execute(f"DROP TABLE {name}")
            for table in ("incidents", "incident_changes"):
                for column in ("unc_ms", "source"):
                    db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    with kit.collector() as (store, _, _):
        assert tables(store.db, names) == expected
        before = store.db.total_changes
        with store.transaction() as db:
            assert list(fleet.backfill(db)) == []
        assert store.db.total_changes == before


def test_a_projection_that_fails_is_undone_whole(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit.collector() as (store, _, intake):
        device = kit.device("car-1")
        intake.process(device.messages(1))
        before = tables(store.db)

        def fail(*_: object) -> None:
            raise ValueError("no")

        monkeypatch.setattr(fleet, "_feed_vehicle", fail)
        outcome, _ = intake.process(device.messages(1))
        assert outcome.accepted == 1 and [alarm.kind for alarm in outcome.alarms] == ["projection_failed"]
        assert tables(store.db) == before


def test_merge_is_commutative_and_forgets_on_demand() -> None:
    device = car()
    pieces = [
        told.told(device.seal([beat(device, depth=n), at(device, n, n)]).segment, LATER_MS) for n in range(5)
    ]
    one, other = {}, {}
    for piece in pieces:
        one = told.merge(one, piece.latest)
    for piece in reversed(pieces):
        other = told.merge(other, piece.latest)
    assert one == other and len(one[told.DEPTH]) == told.DEPTHS
    left = told.without(one, frozenset({4}))
    assert told.PLACE not in left and [depth[1] for depth in left[told.DEPTH]] == [3, 2]
    assert told.without(one, frozenset({2, 3, 4})) == {}
