"""Projection of segments: in any order, twice, malformed, of two tenants, and what reaches the title."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_sync.ledger.engine import Call, TitleKey
from cloud_sync.runtime import projector, title_state
from cloud_sync.runtime.projector import Projector
from cloud_sync.statement import TITLE, parse_statement
from edge.event import Body, Event, Key, Kind, stamp_value
from edge.recorder import incident_body
from edge.segment import Sealed, Segment, seal
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.wire import cose
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource
from models.verdict import Action, Cause, Evidence, Verdict

KEY = ec.generate_private_key(ec.SECP256R1())
DEVICE_KEY = ec.generate_private_key(ec.SECP256R1())
DEVICE_KID = cose.key_id(DEVICE_KEY.public_key())
RUN = bytes(range(16))
T0_MS = 1_800_000_000_000
TOKEN, OWNER, LOAN = "ab" * 32, "cd" * 32, "ef" * 32
TYRES = ("a1b2c3d4", "a1b2c3d5", "a1b2c3d6", "a1b2c3d7")


def stamp(at_s: float, *, wall: bool = True) -> Stamp:
    mono = int(at_s * 1e9)
    return Stamp(mono, T0_MS * 1_000_000 + mono if wall else None, TimeSource.GNSS, 50)


def incident_event(seq: int, action: Action, at_s: float, **changes: Any) -> Event:
    body: Body = {
        Key.INCIDENT: changes.pop("incident", 1),
        Key.CAUSE: int(changes.pop("cause", Cause.MOVED_WITHOUT_WHEELS)),
        Key.ACTION: int(action),
        Key.CONFIDENCE_PERMILLE: changes.pop("permille", 800),
        Key.SENTENCE: changes.pop("sentence", f"It moved, said at {at_s:.0f} s."),
        Key.EVIDENCE: [["position", f"moved at {at_s:.0f} s"]],
        Key.SINCE: stamp_value(stamp(changes.pop("since_s", at_s))),
        int(Sig.LATITUDE): 471234,
        int(Sig.LONGITUDE): 85678,
    }
    event_stamp = changes.pop("stamp", stamp(at_s))
    body.update(changes.pop("body", {}))
    assert not changes
    return Event(seq, Kind.INCIDENT, event_stamp, {int(key): value for key, value in body.items()})


def sighting_event(seq: int, sensor: Any, at_s: float) -> Event:
    body: Body = {int(Key.SENSOR_ID): sensor, int(Key.RSSI_DBM): -70}
    return Event(seq, Kind.SIGHTING, stamp(at_s), body)


def segment(
    number: int, *events: Event, tenant: str = "fund-a", device: str = "vehicle-1", run: bytes = RUN
) -> Sealed:
    previous: bytes | str = "unknown" if number == 0 else bytes(32)
    content = Segment(tenant, device, run, number, previous, ClockKind.LIVE, events)
    return seal(content, DEVICE_KEY, DEVICE_KID)


LIFE = (
    segment(0, Event(0, Kind.RUN_START, stamp(0), {})),
    segment(1, incident_event(5, Action.OPENED, 100, since_s=90)),
    segment(2, incident_event(9, Action.UPDATED, 160, permille=900)),
    segment(3, incident_event(12, Action.UPDATED, 200, permille=850)),
    segment(4, incident_event(20, Action.CLOSED, 400, sentence="It is over.")),
)


def open_db() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    projector.migrate(db)
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = open_db()
    yield connection
    connection.close()


def feed(db: sqlite3.Connection, *segments: Sealed, at_ms: int = T0_MS + 500_000) -> list[bytes]:
    hook = Projector(KEY, SystemClock())
    return [data for sealed in segments for data in hook.on_segment(db, sealed, at_ms)]


def pledge(db: sqlite3.Connection, tenant: str = "fund-a", device: str = "vehicle-1") -> None:
    for function, args, org, role in (
        ("MintWithTokenURI", (TOKEN, OWNER, ""), "registry", "registry"),
        ("ProposeLien", (TOKEN, LOAN), "bank", "lender"),
        ("ConsentLien", (TOKEN, LOAN), "fund", "guarantor"),
        ("ConsentLien", (TOKEN, LOAN), "registry", "registry"),
    ):
        title_state.transact(db, tenant, Call(function, args, org, role, T0_MS), KEY)
    db.execute("INSERT INTO title_devices VALUES(?, ?, ?)", (tenant, device, TOKEN))
    db.executemany("INSERT INTO device_tyres VALUES(?, ?, ?)", [(tenant, device, tyre) for tyre in TYRES])


def test_the_life_of_an_incident(db: sqlite3.Connection) -> None:
    feed(db, *LIFE[:2])
    [row] = projector.list_incidents(db, "fund-a")
    assert row["cause"] == "moved_without_wheels"
    assert row["state"] == "open"
    assert row["opened_at"] == "2027-01-15T08:01:40.000Z"
    assert row["since"] == "2027-01-15T08:01:30.000Z"
    assert row["closed_at"] is None
    assert (row["device"], row["run"], row["incident"]) == ("vehicle-1", RUN.hex(), 1)
    assert (row["segment"], row["segment_hash"], row["seq"]) == (1, LIFE[1].hash.hex(), 5)
    assert (row["lat_deg"], row["lon_deg"]) == (47.1234, 8.5678)
    feed(db, *LIFE[2:])
    [row] = projector.list_incidents(db, "fund-a")
    assert row["state"] == "closed"
    assert row["closed_at"] == "2027-01-15T08:06:40.000Z"
    assert row["confidence"] == 0.9
    assert row["sentence"] == "It is over."
    assert [line["text"] for line in row["evidence"]] == [
        f"moved at {second} s" for second in (100, 160, 200, 400)
    ]


def test_every_order_gives_the_same_tables() -> None:
    results = []
    for order in itertools.permutations(LIFE):
        db = open_db()
        pledge(db)
        statements = feed(db, *order)
        assert len(statements) == 1
        results.append(
            (projector.list_incidents(db, "fund-a"), title_state.ask(db, "fund-a", "locked", TOKEN))
        )
        assert title_state.ask(db, "fund-a", "GetTitle", TOKEN)["state"] == "ALERT"
        db.close()
    assert all(result == results[0] for result in results)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(LIFE) - 1), max_size=12))
def test_segments_that_come_twice_add_nothing(sequence: list[int]) -> None:
    once, twice = open_db(), open_db()
    feed(once, *(LIFE[n] for n in sorted(set(sequence))))
    feed(twice, *(LIFE[n] for n in sequence))
    assert projector.list_incidents(once, "fund-a") == projector.list_incidents(twice, "fund-a")
    once.close()
    twice.close()


def test_a_pledged_title_hears_of_it_once_with_the_segment_as_evidence(db: sqlite3.Connection) -> None:
    pledge(db)
    [data] = feed(db, *LIFE, *LIFE)
    said = parse_statement(data, lambda kid: KEY.public_key())
    assert said.type == TITLE
    assert said.tenant == "fund-a"
    assert said.wall_ms == T0_MS + 500_000
    assert said.body[TitleKey.TOKEN] == bytes.fromhex(TOKEN)
    assert (said.body[TitleKey.FROM], said.body[TitleKey.TO]) == ("PLEDGED", "ALERT")
    assert said.body[TitleKey.ARGS] == [LIFE[1].hash]
    assert said.body[TitleKey.CAUSE] == "moved_without_wheels"
    [title] = title_state.list_titles(db, "fund-a")
    assert title["state"] == "ALERT"
    assert title["evidence"] == [LIFE[1].hash.hex()]


def test_a_second_incident_is_more_evidence(db: sqlite3.Connection) -> None:
    pledge(db)
    opened = incident_event(30, Action.OPENED, 900, incident=2, cause=Cause.REMOVED_OR_OPENED)
    second = segment(5, opened)
    assert len(feed(db, LIFE[1], second)) == 2
    title = title_state.ask(db, "fund-a", "GetTitle", TOKEN)
    assert title["lien"]["evidence"] == [LIFE[1].hash.hex(), second.hash.hex()]


def test_two_incidents_in_one_segment_alert_once_and_the_refusal_is_counted(db: sqlite3.Connection) -> None:
    pledge(db)
    both = segment(
        1,
        incident_event(5, Action.OPENED, 100),
        incident_event(6, Action.OPENED, 101, incident=2, cause=Cause.REMOVED_OR_OPENED),
    )
    assert len(feed(db, both)) == 1
    assert projector.counts(db, "fund-a") == {"alert_refused": 1}
    assert len(projector.list_incidents(db, "fund-a")) == 2


def test_an_update_that_makes_sure_alerts(db: sqlite3.Connection) -> None:
    pledge(db)
    assert feed(db, segment(1, incident_event(5, Action.OPENED, 100, permille=500))) == []
    assert len(feed(db, segment(2, incident_event(6, Action.UPDATED, 130, permille=700)))) == 1


@pytest.mark.parametrize(
    "event",
    [
        incident_event(5, Action.OPENED, 100, permille=599),
        incident_event(5, Action.OPENED, 100, cause=Cause.JAMMED),
        incident_event(5, Action.OPENED, 100, cause=Cause.SILENT),
        incident_event(5, Action.OPENED, 100, cause=Cause.LEFT_REGION),
        incident_event(5, Action.CLOSED, 100),
    ],
)
def test_what_does_not_endanger_the_collateral_leaves_the_title_alone(
    db: sqlite3.Connection, event: Event
) -> None:
    pledge(db)
    assert feed(db, segment(1, event)) == []
    assert len(projector.list_incidents(db, "fund-a")) == 1
    assert title_state.ask(db, "fund-a", "GetTitle", TOKEN)["state"] == "PLEDGED"


def test_an_alert_that_the_contract_refuses_is_counted_and_harms_nothing(db: sqlite3.Connection) -> None:
    mint = Call("MintWithTokenURI", (TOKEN, OWNER, ""), "registry", "registry", T0_MS)
    title_state.transact(db, "fund-a", mint, KEY)
    db.execute("INSERT INTO title_devices VALUES('fund-a', 'vehicle-1', ?)", (TOKEN,))
    assert feed(db, LIFE[1], LIFE[2]) == []
    assert projector.counts(db, "fund-a") == {"alert_refused": 1}
    assert len(projector.list_incidents(db, "fund-a")) == 1
    assert title_state.ask(db, "fund-a", "GetTitle", TOKEN)["state"] == "FREE"


def bad(change: dict[int, Any]) -> Event:
    return incident_event(5, Action.OPENED, 100, body=change)


@pytest.mark.parametrize(
    "event",
    [
        bad({Key.CAUSE: 99}),
        bad({Key.CAUSE: "1"}),
        bad({Key.ACTION: 0}),
        bad({Key.ACTION: True}),
        bad({Key.INCIDENT: -1}),
        bad({Key.INCIDENT: 1 << 40}),
        bad({Key.CONFIDENCE_PERMILLE: 1001}),
        bad({Key.SENTENCE: b"bytes"}),
        bad({Key.SENTENCE: None}),
        bad({Key.EVIDENCE: "text"}),
        bad({Key.EVIDENCE: [["one"]]}),
        bad({Key.EVIDENCE: [[1, 2]]}),
        bad({Key.SINCE: 17}),
        bad({int(Sig.LATITUDE): 910_000}),
        bad({int(Sig.LONGITUDE): "8.5"}),
        replace(incident_event(5, Action.OPENED, 100), seq=1 << 40),
        replace(incident_event(5, Action.OPENED, 100), body={}),
    ],
)
def test_an_impossible_incident_is_counted_and_the_rest_counts(db: sqlite3.Connection, event: Event) -> None:
    good = incident_event(7, Action.OPENED, 200, incident=2)
    feed(db, segment(1, event, good))
    assert [row["incident"] for row in projector.list_incidents(db, "fund-a")] == [2]
    assert projector.counts(db, "fund-a") == {"refused_incident": 1}


def test_html_and_odd_texts_are_only_data(db: sqlite3.Connection) -> None:
    text = "<script>alert('1');</script> '; DROP TABLE incidents; -- \u202e"
    change = {Key.SENTENCE: text, Key.EVIDENCE: [["<b>", text]]}
    feed(db, segment(1, bad(change)))
    [row] = projector.list_incidents(db, "fund-a")
    assert row["sentence"] == text
    assert row["evidence"] == [{"sensor": "<b>", "text": text}]


def test_endless_texts_are_cut(db: sqlite3.Connection) -> None:
    change = {
        Key.SENTENCE: "s" * 1500,
        Key.EVIDENCE: [["position", "e" * 900]] + [["x", str(n)] for n in range(40)],
    }
    feed(db, segment(1, bad(change)))
    [row] = projector.list_incidents(db, "fund-a")
    assert len(row["sentence"]) == 600
    assert len(row["evidence"]) == 16
    assert len(row["evidence"][0]["text"]) == 200


@pytest.mark.parametrize(
    "odd",
    [
        stamp(100, wall=False),
        Stamp(0, (T0_MS + 86_400_000) * 1_000_000, TimeSource.HOST, 0),
        Stamp(0, ((1 << 64) - 1) // 1_000_000 * 1_000_000, TimeSource.HOST, 0),
        Stamp(0, -5_000_000, TimeSource.HOST, 0),
    ],
)
def test_an_unknown_or_impossible_wall_time_becomes_the_time_of_receipt(
    db: sqlite3.Connection, odd: Stamp
) -> None:
    feed(db, segment(1, incident_event(5, Action.OPENED, 100, stamp=odd)), at_ms=T0_MS)
    [row] = projector.list_incidents(db, "fund-a")
    assert row["opened_at"] == "2027-01-15T08:00:00.000Z"


@pytest.mark.parametrize("spelled", ["a1b2c3d4", "A1B2C3D4", bytes.fromhex("a1b2c3d4")])
def test_a_roadside_sighting_is_evidence(db: sqlite3.Connection, spelled: Any) -> None:
    pledge(db)
    feed(db, LIFE[1])
    heard = [
        sighting_event(0, spelled, 300),
        sighting_event(1, "a1b2c3d5", 301),
        sighting_event(2, "ffffffff", 302),
    ]
    feed(db, segment(0, *heard, device="roadside-1"))
    [row] = projector.list_incidents(db, "fund-a")
    assert row["evidence"][-1] == {
        "sensor": "roadside",
        "text": "roadside-1 heard 2 enrolled tyre sensors of this vehicle, first at 2027-01-15T08:05:00.000Z",
    }


def test_a_sighting_before_the_incident_is_known_counts_the_same(db: sqlite3.Connection) -> None:
    pledge(db)
    feed(db, segment(0, sighting_event(0, TYRES[0], 300), device="roadside-1"))
    feed(db, *reversed(LIFE))
    [row] = projector.list_incidents(db, "fund-a")
    assert "1 enrolled tyre sensor of this vehicle" in row["evidence"][-1]["text"]


@pytest.mark.parametrize("at_s", [-3600, 401, 100_000])
def test_a_sighting_outside_the_incident_is_not_its_evidence(db: sqlite3.Connection, at_s: int) -> None:
    pledge(db)
    feed(db, *LIFE)
    wall_ms = T0_MS + at_s * 1000
    db.execute(
        "INSERT INTO sightings VALUES('fund-a', 'roadside-1', ?, 0, ?, ?, NULL)", (RUN, TYRES[0], wall_ms)
    )
    [row] = projector.list_incidents(db, "fund-a")
    assert all(line["sensor"] != "roadside" for line in row["evidence"])


@pytest.mark.parametrize("sensor", [None, 17, "", "xyz", "a" * 33, b"", b"\x00" * 40, True])
def test_an_impossible_sighting_is_counted(db: sqlite3.Connection, sensor: Any) -> None:
    feed(db, segment(0, sighting_event(0, sensor, 10), device="roadside-1"))
    assert projector.counts(db, "fund-a") == {"refused_sighting": 1}


def test_tenants_stay_apart(db: sqlite3.Connection) -> None:
    pledge(db, "fund-a")
    assert feed(db, segment(1, incident_event(5, Action.OPENED, 100), tenant="fund-b")) == []
    feed(db, segment(0, sighting_event(0, TYRES[0], 110), tenant="fund-b", device="roadside-1"))
    feed(db, LIFE[1])
    [row] = projector.list_incidents(db, "fund-a")
    assert all(line["sensor"] != "roadside" for line in row["evidence"])
    [row_b] = projector.list_incidents(db, "fund-b")
    assert row_b["segment_hash"] != row["segment_hash"]
    assert projector.list_incidents(db, "fund-c") == []
    assert title_state.list_titles(db, "fund-b") == []
    assert projector.counts(db, "fund-b") == {}


def test_what_the_edge_writes_is_read(db: sqlite3.Connection) -> None:
    verdict = Verdict(
        160 * 10**9, 100 * 10**9, 3, Cause.REMOVED_OR_OPENED, Action.OPENED, 0.91, "It was opened.",
        (Evidence("case", "the case is open"), Evidence("supply", "0.0 V")), 47.12341, 8.56789,
    )  # fmt: skip
    now = stamp(161)
    feed(db, segment(1, Event(4, Kind.INCIDENT, now, incident_body(verdict, now))))
    [row] = projector.list_incidents(db, "fund-a")
    assert (row["cause"], row["confidence"], row["incident"]) == ("removed_or_opened", 0.91, 3)
    assert (row["opened_at"], row["since"]) == ("2027-01-15T08:02:41.000Z", "2027-01-15T08:01:40.000Z")
    assert [line["sensor"] for line in row["evidence"]] == ["case", "supply"]
    assert (row["lat_deg"], row["lon_deg"]) == (47.1234, 8.5679)
    assert projector.counts(db, "fund-a") == {}


def test_two_runs_of_one_device_have_incidents_of_their_own(db: sqlite3.Connection) -> None:
    feed(db, LIFE[1], segment(1, incident_event(5, Action.OPENED, 700), run=bytes(16)))
    assert len(projector.list_incidents(db, "fund-a")) == 2


def test_erasure_takes_incidents_and_sightings_of_the_month_only(db: sqlite3.Connection) -> None:
    pledge(db)
    late = segment(9, incident_event(50, Action.OPENED, 40 * 86_400, incident=2))
    other = segment(1, incident_event(5, Action.OPENED, 100), device="vehicle-2")
    feed(db, *LIFE, late, other, at_ms=T0_MS + 50 * 86_400_000)
    feed(db, segment(0, sighting_event(0, TYRES[0], 300), device="roadside-1"))
    assert projector.erase(db, "fund-a", "vehicle-1", T0_MS, T0_MS + 30 * 86_400_000) > 0
    left = [(row["device"], row["incident"]) for row in projector.list_incidents(db, "fund-a")]
    assert left == [("vehicle-2", 1), ("vehicle-1", 2)]
    assert db.execute("SELECT count(*) FROM sightings").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM incident_changes WHERE incident = 1").fetchone() == (1,)
    assert projector.erase(db, "fund-b", "vehicle-2", 0, T0_MS * 2) == 0


def test_migrating_twice_keeps_everything(db: sqlite3.Connection) -> None:
    feed(db, LIFE[1])
    Projector(KEY, SystemClock()).migrate(db)
    assert len(projector.list_incidents(db, "fund-a")) == 1


def test_inside_a_transaction_that_is_undone_nothing_stays(
    db: sqlite3.Connection,
) -> None:
    pledge(db)
    db.execute("BEGIN IMMEDIATE")
    assert len(feed(db, LIFE[1])) == 1
    db.execute("ROLLBACK")
    assert projector.list_incidents(db, "fund-a") == []
    assert title_state.ask(db, "fund-a", "GetTitle", TOKEN)["state"] == "PLEDGED"
    assert len(feed(db, LIFE[1])) == 1
