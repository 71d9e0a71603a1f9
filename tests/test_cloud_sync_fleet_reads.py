"""What the API tells of the fleet: the right order, the right tenant, the right branches, and no nonsense."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudkit import START_MS, TENANT, Device, make_kit
from cryptography.hazmat.primitives.asymmetric import ec
from test_cloud_sync_fleet import DECEMBER_MS, at, beat, power

from cloud_sync.access import ROLE_SCOPES, Principal
from cloud_sync.errors import BadCursor, BadRequest, NotFound
from cloud_sync.ledger.engine import Call
from cloud_sync.runtime import fleet, fleet_reads, projector, title_state
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.erase import erase_month, signer
from cloud_sync.runtime.projector import Projector
from cloud_sync.runtime.serve import schemas
from cloud_sync.runtime.store import Store
from edge.event import Event, Key, Kind
from edge.segment import Lost, Sealed, Tombstone
from firmware_bridge.runtime.clock import SystemClock
from firmware_bridge.wire.signals import Sig
from firmware_bridge.wire.stamp import ClockKind, Stamp, TimeSource
from models.verdict import Action

KEY = ec.generate_private_key(ec.SECP256R1())
NOW_MS = START_MS + 120_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.db") as made:
        with made.transaction() as db:
            projector.migrate(db)
        yield made


def car(name: str, tenant: str = TENANT) -> Device:
    return Device(tenant, name, KEY, run=f"{tenant}{name}".encode().ljust(16, b"\x01")[:16])


def feed(store: Store, *segments: Sealed, at_ms: int = NOW_MS) -> None:
    hook = Projector(KEY, SystemClock())
    with store.transaction() as db:
        for sealed in segments:
            hook.on_segment(db, sealed, at_ms)


def card(store: Store, device: str, name: str | None = None, branch: str | None = None, tenant: str = TENANT,
         note: str | None = None) -> None:  # fmt: skip
    with store.transaction() as db:
        fleet.set_card(db, tenant, device, name, branch, note)


def who(*branches: str, role: str = "operator", tenant: str = TENANT) -> Principal:
    return Principal(tenant, 1, "anna", role, ROLE_SCOPES[role], frozenset(branches))


def listed(store: Store, principal: Principal | None = None, **options: Any) -> dict[str, Any]:
    value = fleet_reads.vehicles(store.db, principal or who(), **{"now_ms": NOW_MS} | options)
    schemas.VehicleList.model_validate(value)
    return value


def devices(value: dict[str, Any]) -> list[str]:
    return [item["device"] for item in value["items"]]


def reasons(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {said["code"]: said["params"] for said in row["reasons"]}


def fill(store: Store) -> None:
    """One vehicle of each state, the worst last by name, and one of another tenant."""
    ok, low, late, towed, theirs = (
        car("a-ok"), car("b-low"), car("c-late"), car("d-towed"), car("a-ok", "bank"),
    )  # fmt: skip
    late.wall_ms -= 4 * HOUR_MS + 10 * 60_000
    feed(
        store,
        ok.seal([at(ok, 1.111, 2.222), power(ok, 0, 60), beat(ok)]),
        low.seal([at(low, 3.0, 4.0), power(low, 2, 60, 11.2), beat(low)]),
        late.seal([at(late, 5.0, 6.0), beat(late)]),
        towed.seal([at(towed, 7.0, 8.0), beat(towed), towed.incident()]),
        theirs.seal([at(theirs, 9.0, 9.0), beat(theirs), theirs.incident()]),
    )
    for name, branch in (("a-ok", "North"), ("b-low", "South"), ("c-late", "South"), ("d-towed", "North")):
        card(store, name, f"Car {name.upper()}", branch)
    card(store, "a-ok", "Theirs", "North", tenant="bank")


def test_the_worst_comes_first_and_says_why(store: Store) -> None:
    fill(store)
    value = listed(store)
    assert [(row["device"], row["state"]) for row in value["items"]] == [
        ("d-towed", "incident"), ("c-late", "overdue"), ("b-low", "attention"), ("a-ok", "ok"),
    ]  # fmt: skip
    assert value["counts"] == {"incident": 1, "overdue": 1, "attention": 1, "ok": 1}
    assert (value["total"], value["next"]) == (4, None)
    towed, late, low, ok = value["items"]
    assert towed["cause"] == "moved_without_wheels" and towed["open_incidents"] == 1
    assert towed["incident"] == f"d-towed.{car('d-towed').run.hex()}.1" and 1700 < towed["rank"] <= 2000
    assert reasons(towed)["reason.incident"] == {"n": 1, "cause": "moved_without_wheels"}
    assert late["rank"] == 504 and reasons(late)["reason.overdue"]["minutes"] > 4 * 60
    assert reasons(low) == {"reason.low_battery": {"volts": 11.2}}
    assert (ok["reasons"], ok["rank"], ok["complete"]) == ([], 0, True)
    assert ok["place"] == {
        "lat": 1.11, "lon": 2.22, "name": None, "distance_m": None,
        "at": {"at": "2026-12-01T04:40:00.000Z", "unc_ms": 100, "source": "gnss"},
    }  # fmt: skip
    assert ok["outbox"] == {"segments": 0, "bytes": 0} and ok["power_state"] == "driving"
    assert (ok["name"], ok["branch"], ok["clock"]) == ("Car A-OK", "North", "live")


def test_every_code_is_in_the_table_with_its_parameters(store: Store) -> None:
    fill(store)
    lone = car("lone")
    stone = Tombstone(Lost.THINNED, lone.run, 9, 9, 7, 0, 1, b"", b"")
    feed(store, lone.seal([beat(lone, None, 1200)]), lone.seal(1, skip=3, tombstones=[stone]))
    said = [s for row in listed(store)["items"] for s in row["reasons"]]
    months = fleet_reads.completeness(store.db, who(), "lone", NOW_MS)["months"]
    said += [s for month in months for s in month["sentences"]]
    window = fleet_reads.timeline(store.db, who(), "lone", START_MS - HOUR_MS, NOW_MS)
    said += window["missing"]
    codes = {s["code"] for s in said}
    assert {"reason.record", "reason.outbox", "record.missing", "record.thinned", "record.window_missing",
            "record.window_dropped"} <= codes  # fmt: skip
    for one in said:
        assert set(fleet_reads.CODES[one["code"]]) == set(one["params"]), one


def test_a_closed_or_refuted_incident_counts_no_more(store: Store) -> None:
    device = car("car-1")
    feed(store, device.seal([beat(device), device.incident(1), device.incident(2)]))
    assert listed(store)["items"][0]["open_incidents"] == 2
    feed(store, device.seal([device.incident(1, Action.CLOSED)]))
    assert listed(store)["items"][0]["open_incidents"] == 1
    with store.transaction() as db:
        db.execute("UPDATE cases SET state='refuted' WHERE incident=2")
    row = listed(store)["items"][0]
    assert (row["state"], row["open_incidents"], row["incident"], row["cause"]) == ("ok", 0, None, None)


def test_announced_silence_is_never_overdue(store: Store) -> None:
    asleep, ended = car("asleep"), car("ended")
    feed(
        store,
        asleep.seal([beat(asleep, 60), power(asleep, 1, 21_600)]),
        ended.seal([power(ended, 0, 60), beat(ended, None)]),
    )
    value = listed(store, now_ms=START_MS + 5 * HOUR_MS)
    assert {row["device"]: row["state"] for row in value["items"]} == {"asleep": "ok", "ended": "attention"}
    assert list(reasons(value["items"][0])) == ["reason.stopped"]
    value = listed(store, now_ms=START_MS + 7 * HOUR_MS)
    assert {row["device"]: row["state"] for row in value["items"]} == {
        "asleep": "overdue",
        "ended": "attention",
    }


def test_a_certificate_near_its_end(store: Store) -> None:
    device, played = car("car-1"), car("played")
    played.clock = ClockKind.REPLAY
    feed(store, device.seal([beat(device)]), played.seal([beat(played)]))
    with store.transaction() as db:
        db.execute("UPDATE vehicles SET certificate_ms=?", (NOW_MS + 3 * DAY_MS + 1,))
    row, other = listed(store)["items"]
    assert row["certificate_days"] == 3 and reasons(row) == {"reason.certificate": {"days": 3}}
    # The clock of a replay says nothing about a certificate of today.
    assert (other["clock"], other["reasons"]) == ("replay", [])
    with store.transaction() as db:
        db.execute("UPDATE vehicles SET certificate_ms=?", (NOW_MS - 1,))
    row = listed(store)["items"][0]
    assert row["certificate_days"] == -1 and reasons(row) == {"reason.certificate_expired": {}}


def test_what_else_needs_attention(store: Store) -> None:
    full, lost, unsure = car("full"), car("lost"), car("unsure")
    lost.seal(1)
    stamp = Stamp(9, START_MS * 10**6, TimeSource.HOST, 60_000)
    feed(
        store,
        *(full.seal([beat(full, depth=depth)]) for depth in (1100, 1200, 1300)),
        lost.seal([beat(lost)]),
        unsure.seal([Event(0, Kind.HEARTBEAT, stamp, {int(Key.NEXT_HEARTBEAT_S): 60})]),
    )
    found = {row["device"]: reasons(row) for row in listed(store)["items"]}
    assert found == {
        "full": {"reason.outbox": {"segments": 1300}, "reason.outbox_growing": {"segments": 1300}},
        "lost": {"reason.record": {"n": 1}},
        "unsure": {"reason.clock": {}},
    }
    assert [row["complete"] for row in fleet_reads.rows_of(store.db, who(), ["lost", "full"], NOW_MS)] == [
        False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"branch": "South"}, ["c-late", "b-low"]),
        ({"state": ["ok", "overdue"]}, ["c-late", "a-ok"]),
        ({"cause": "moved_without_wheels"}, ["d-towed"]),
        ({"cause": "jammed"}, []),
        ({"clock": "live", "sort": "name"}, ["a-ok", "b-low", "c-late", "d-towed"]),
        ({"clock": "replay"}, []),
        ({"q": "B-L"}, ["b-low"]),
        ({"q": "car c"}, ["c-late"]),
        ({"sort": "heard", "limit": 2}, ["a-ok", "b-low"]),
        ({"sort": "health"}, ["c-late", "b-low", "a-ok", "d-towed"]),
        ({"q": "%"}, []), ({"q": "_"}, []), ({"q": "a%"}, []), ({"q": "'; DROP TABLE vehicles;--"}, []),
    ],
)  # fmt: skip
def test_filters(store: Store, options: dict[str, Any], expected: list[str]) -> None:
    fill(store)
    assert devices(listed(store, **options)) == expected


def test_counts_are_within_the_filter_but_for_the_state(store: Store) -> None:
    fill(store)
    value = listed(store, branch="South", state=["overdue"])
    assert value["counts"] == {"incident": 0, "overdue": 1, "attention": 1, "ok": 0}
    assert (value["total"], devices(value)) == (1, ["c-late"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q": "x" * 10_000}, "at most 80"), ({"branch": "Mars"}, "no branch 'Mars'"),
        ({"branch": "%"}, "no branch"), ({"limit": 0}, "limit is 1 .. 500"), ({"limit": 501}, "cursor"),
        ({"limit": -1}, "limit"), ({"sort": "rank; --"}, "one of worst"),
        ({"state": ["open"]}, "one of incident"),
        ({"cause": "stolen"}, "one of moved_without_wheels"), ({"clock": "real"}, "one of live"),
    ],
)  # fmt: skip
def test_absurd_filters_are_refused_and_say_what_to_do(
    store: Store, options: dict[str, Any], message: str
) -> None:
    fill(store)
    with pytest.raises(BadRequest, match=re.escape(message)):
        listed(store, **options)


@pytest.mark.parametrize("sort", ["worst", "name", "heard", "health"])
def test_pages_hold_every_vehicle_once(store: Store, sort: str) -> None:
    for number in range(23):
        device = car(f"car-{number:02}")
        feed(store, device.seal([beat(device, depth=1200 if number % 3 else 0)]), at_ms=NOW_MS + number // 5)
        card(store, device.name, f"Älter {23 - number}" if number % 2 else None)
    whole = devices(listed(store, sort=sort, limit=500))
    assert len(whole) == 23
    found: list[str] = []
    cursor = None
    for _ in range(8):
        value = listed(store, sort=sort, limit=3, cursor=cursor)
        found += devices(value)
        assert value["total"] == 23
        cursor = value["next"]
        assert (cursor is None) == (len(found) == 23)
    assert found == whole


def test_a_cursor_of_another_list_filter_tenant_or_forger_is_refused(store: Store) -> None:
    fill(store)
    cursor = listed(store, limit=1)["next"]
    assert listed(store, limit=2, cursor=cursor)["items"]
    for principal, options in (
        (who(), {"sort": "name"}), (who(), {"branch": "South"}), (who(), {"q": "a"}), (who("North"), {}),
        (who(tenant="bank"), {}), (who(role="technician"), {}),
    ):  # fmt: skip
        with pytest.raises(BadCursor):
            listed(store, principal, cursor=cursor, **options)
    for forged in ("", "x", cursor[:-2], cursor[:-1] + ("A" if cursor[-1] != "A" else "B"), "é" * 10):
        with pytest.raises(BadCursor):
            listed(store, cursor=forged)
    with pytest.raises(BadCursor):
        fleet_reads.completeness_list(store.db, who(), "2026-12", cursor=cursor, now_ms=NOW_MS)


def test_a_tenant_sees_nothing_of_another(store: Store) -> None:
    fill(store)
    bank = who(tenant="bank")
    assert devices(listed(store, bank)) == ["a-ok"] and listed(store, bank)["total"] == 1
    assert [row["name"] for row in fleet_reads.rows_of(store.db, bank, ["a-ok", "d-towed"], NOW_MS)] == [
        "Theirs"
    ]
    assert [item[:3] for item in fleet_reads.fleet_map(store.db, bank, NOW_MS)["items"]] == [
        ("a-ok", 9.0, 9.0)
    ]
    for read in (fleet_reads.vehicle, fleet_reads.completeness):
        with pytest.raises(NotFound):
            read(store.db, bank, "d-towed", NOW_MS)
    with pytest.raises(NotFound):
        fleet_reads.timeline(store.db, bank, "d-towed", START_MS, NOW_MS)
    line = fleet_reads.timeline(store.db, bank, "a-ok", START_MS - 1, NOW_MS)
    assert [place["lat"] for place in line["track"]] == [9.0]
    month = fleet_reads.completeness_list(store.db, bank, "2026-12", now_ms=NOW_MS)
    assert ([item["name"] for item in month["items"]], month["total"]) == (["Theirs"], 1)
    kinds = {(row["kind"], row["device"]) for row in fleet_reads.feed_after(store.db, "bank", 0, 100)}
    assert kinds == {("vehicle", "a-ok"), ("incident", "a-ok")}
    nobody = who(tenant="none")
    assert listed(store, nobody)["total"] == 0
    assert (
        fleet_reads.feed_after(store.db, "none", 0, 9) == []
        and fleet_reads.feed_bounds(store.db, "none")[1] == 0
    )


def test_branches_confine_every_read(store: Store) -> None:
    fill(store)
    south = who("South")
    lone = car("e-lone")
    feed(store, lone.seal([beat(lone)]))  # without a card: nobody's who is confined
    value = listed(store, south)
    assert devices(value) == ["c-late", "b-low"]
    assert value["counts"] == {"incident": 0, "overdue": 1, "attention": 1, "ok": 0} and value["total"] == 2
    assert {item[0] for item in fleet_reads.fleet_map(store.db, south, NOW_MS)["items"]} == {
        "b-low",
        "c-late",
    }
    rows = fleet_reads.rows_of(store.db, south, ["d-towed", "e-lone", "b-low"], NOW_MS)
    assert [row["device"] for row in rows] == ["b-low"]
    for device in ("d-towed", "e-lone"):
        with pytest.raises(NotFound):
            fleet_reads.vehicle(store.db, south, device, NOW_MS)
        with pytest.raises(NotFound):
            fleet_reads.completeness(store.db, south, device, NOW_MS)
        with pytest.raises(NotFound):
            fleet_reads.timeline(store.db, south, device, START_MS, NOW_MS)
    with pytest.raises(BadRequest, match="no branch"):
        listed(store, south, branch="North")
    month = fleet_reads.completeness_list(store.db, south, "2026-12", now_ms=NOW_MS)
    assert ({item["device"] for item in month["items"]}, month["total"]) == ({"b-low", "c-late"}, 2)


def test_who_may_not_read_incidents_sees_a_fleet_without_them(store: Store) -> None:
    fill(store)
    technician = who(role="technician")
    value = listed(store, technician)
    assert value["counts"]["incident"] == 0
    towed = next(row for row in value["items"] if row["device"] == "d-towed")
    assert (towed["state"], towed["incident"], towed["cause"], towed["open_incidents"]) == (
        "ok",
        None,
        None,
        0,
    )
    assert devices(listed(store, technician, cause="moved_without_wheels")) == []
    assert fleet_reads.vehicle(store.db, technician, "d-towed", NOW_MS)["incidents"] == []
    line = fleet_reads.timeline(store.db, technician, "d-towed", START_MS - 1, NOW_MS)
    assert all(mark["value"] not in ("opened", "closed") for mark in line["marks"])


def test_one_vehicle_with_its_title(store: Store) -> None:
    fill(store)
    card(store, "d-towed", note="<b>keys</b> in the office")
    token, owner = "ab" * 32, "cd" * 32
    with store.transaction() as db:
        call = Call("MintWithTokenURI", (token, owner, ""), "registry", "registry", START_MS)
        title_state.transact(db, TENANT, call, KEY)
        db.execute("INSERT INTO title_devices VALUES(?,?,?)", (TENANT, "d-towed", token))
        db.execute("INSERT INTO device_tyres VALUES(?,?,?)", (TENANT, "d-towed", "a1b2"))
        db.execute("INSERT INTO alarms VALUES(1,?,?,'chain_fork',?,'x')", (TENANT, "d-towed", START_MS))
    value = fleet_reads.vehicle(store.db, who(), "d-towed", NOW_MS)
    schemas.VehicleDetail.model_validate(value)
    assert (value["tokens"], value["tyres"]) == ([token], ["a1b2"])
    assert value["note"] == "<b>keys</b> in the office"
    assert value["vehicle"]["title_state"] is not None
    assert value["alarms"] == [
        {"code": "alarm.chain_fork", "params": {"n": 1, "at": "2026-12-01T04:40:00.000Z"}}
    ]
    assert [incident["cause"] for incident in value["incidents"]] == ["moved_without_wheels"]
    assert (value["segments"], value["events"], value["runs"], value["loss_window_ms"]) == (1, 3, 1, 5000)
    partner = fleet_reads.vehicle(store.db, who(role="partner"), "d-towed", NOW_MS)
    assert (partner["tokens"], partner["note"], partner["vehicle"]["title_state"]) == ([], "", None)
    with pytest.raises(NotFound):
        fleet_reads.vehicle(store.db, who(), "nobody", NOW_MS)


def test_the_map_draws_the_worst_last(store: Store) -> None:
    fill(store)
    blind = car("z-blind")
    feed(store, blind.seal([beat(blind)]))
    value = fleet_reads.fleet_map(store.db, who(), NOW_MS)
    schemas.FleetMap.model_validate(value)
    assert [(item[0], value["states"][item[3]]) for item in value["items"]] == [
        ("a-ok", "ok"), ("b-low", "attention"), ("c-late", "overdue"), ("d-towed", "incident"),
    ]  # fmt: skip
    assert value["unplaced"] == 1


# --- time line -------------------------------------------------------------------------------------------


def lanes(value: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    schemas.Timeline.model_validate(value)
    return {lane["lane"]: lane["points"] for lane in value["lanes"]}


def test_lanes_say_what_the_sensors_said(store: Store) -> None:
    device = car("car-1")
    tyres = device.event(Kind.TYRES, {16: 250, 17: 251, 18: 230})
    shaken = device.event(Kind.VIBRATION, {32: 300, 33: 400, 34: 0, 35: 2500, 36: 42})
    opened = device.event(Kind.POWER, {48: 1180, 49: 1, 50: 1})
    fix = device.event(Kind.POSITION, {1: 471234, 2: 85678, 4: 523, 6: 1, 8: 7})
    port = device.event(Kind.PORT, {int(Key.PORT): "gnss", int(Key.CONDITION): "silent"})
    lost = device.event(Kind.NO_POSITION, {int(Key.TEXT): "jammed"})
    feed(
        store,
        device.seal([tyres, shaken, opened, fix, port]),
        device.seal([lost]),
        device.seal([device.incident()]),
    )
    value = fleet_reads.timeline(store.db, who(), "car-1", START_MS, NOW_MS)
    found = lanes(value)
    first = "2026-12-01T04:40:00.000Z"
    assert found["tyres"] == [{"at": first, "value": 230, "text": "FL 250, FR 251, RL 230"}]
    assert found["vibration"] == [{"at": first, "value": 0.5, "text": "max 2.50"}]
    assert found["tilt"][0]["value"] == 4.2 and found["supply"][0]["value"] == 11.8
    assert found["case"][0]["value"] == "open" and found["device"][0]["value"] == "parked_watch"
    assert found["speed"][0]["value"] == 52.3
    assert [point["value"] for point in found["position"]] == ["moving", None]
    assert [(point["value"], point["text"]) for point in found["radio"]] == [(7, ""), (None, "jammed")]
    assert [(mark["value"], mark["text"]) for mark in value["marks"]] == [
        ("port", "gnss: silent"), ("opened", "cause.moved_without_wheels"),
    ]  # fmt: skip
    assert [(place["lat"], place["lon"]) for place in value["track"]] == [(47.12, 8.57)]


def test_thinning_keeps_a_spike(store: Store) -> None:
    device = car("car-1")
    made = []
    for number in range(1000):
        fix = at(device, 1.0, 1.0, 199.0 if number == 617 else 50.0)
        made.append(device.seal([fix, power(device, 0, 60, 9.0 if number == 333 else 12.5)]))
    feed(store, *made, at_ms=NOW_MS + DAY_MS)
    found = lanes(fleet_reads.timeline(store.db, who(), "car-1", START_MS, NOW_MS + DAY_MS))
    for name in ("speed", "supply", "position", "device"):
        assert 200 <= len(found[name]) <= 300
    assert max(point["value"] for point in found["speed"]) == 199.0
    assert min(point["value"] for point in found["supply"]) == 9.0


def test_a_time_line_says_what_is_missing_of_its_window(store: Store) -> None:
    device = car("car-1")
    first = device.seal(2)
    device.wall_ms += HOUR_MS
    stone = Tombstone(Lost.CRASH, device.run, 7, 8, 2, 0, 1, b"", b"")
    late = device.seal(2, skip=4, tombstones=[stone])
    feed(store, first, late, at_ms=NOW_MS + DAY_MS)
    inside = fleet_reads.timeline(store.db, who(), "car-1", START_MS + 60_000, START_MS + 2 * HOUR_MS)
    assert inside["missing"][0] == {
        "code": "record.window_missing",
        "params": {"n": 4, "from": "2026-12-01T04:40:01.000Z", "to": "2026-12-01T05:40:06.000Z"},
    }
    assert [said["code"] for said in inside["missing"]] == ["record.window_missing", "record.window_dropped"]
    after = fleet_reads.timeline(store.db, who(), "car-1", START_MS + 3 * HOUR_MS, START_MS + 4 * HOUR_MS)
    assert after["missing"] == [] and after["lanes"] == []


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [(5, 5, "begin before"), (9, 5, "begin before"), (-1, 5, "begin before"), (0, 2**60, "begin before"),
     (0, 8 * DAY_MS, "longer than 7 days")],
)  # fmt: skip
def test_windows_that_cannot_be_meant(store: Store, begin: int, end: int, message: str) -> None:
    fill(store)
    with pytest.raises(BadRequest, match=message):
        fleet_reads.timeline(store.db, who(), "a-ok", begin, end)


# --- completeness ----------------------------------------------------------------------------------------


def test_a_record_month_by_month(store: Store) -> None:
    device = car("car-1")
    device.wall_ms = DECEMBER_MS - DAY_MS
    stone = Tombstone(Lost.REFUSED_FULL, device.run, 7, 8, 2, 0, 1, b"", b"")
    feed(store, device.seal(2))
    feed(store, device.seal(3, skip=2, tombstones=[stone]))
    device.seal(1)
    device.wall_ms = START_MS
    feed(store, device.seal(4), device.seal(1))
    value = fleet_reads.completeness(store.db, who(), "car-1", NOW_MS)
    schemas.Completeness.model_validate(value)
    november, december = value["months"]
    assert (november["month"], november["segments"], november["events"]) == ("2026-11", 2, 5)
    assert (november["missing"], november["tombstones"], november["dropped"]) == (3, 1, 2)
    run = device.run.hex()[:8]
    assert november["sentences"] == [
        {"code": "record.missing", "params": {"n": 2, "run": run, "first": 1, "last": 2}},
        {"code": "record.missing_until",
         "params": {"n": 1, "run": run, "first": 4, "last": 4, "month": "2026-12"}},
        {"code": "record.refused", "params": {"n": 2}},
    ]  # fmt: skip
    assert (december["missing"], december["complete"]) == (0, True)
    assert december["sentences"] == [{"code": "record.whole", "params": {}}]
    assert value["up_to"]["source"] == "gnss" and value["up_to"]["at"].startswith("2026-12-01T04:40:04")


def test_many_holes_are_counted_and_the_largest_named(store: Store) -> None:
    device = car("car-1")
    for size in range(1, 9):
        feed(store, device.seal(1, skip=size))
    [month] = fleet_reads.completeness(store.db, who(), "car-1", NOW_MS)["months"]
    named = [said["params"]["n"] for said in month["sentences"]]
    assert named == [8, 7, 6, 5, 4, 6] and month["missing"] == 36
    assert month["sentences"][-1]["code"] == "record.missing_more"


def test_a_month_of_the_fleet_lists_the_worst_first_in_pages(store: Store) -> None:
    for number in range(7):
        device = car(f"car-{number}")
        if number == 5:
            device.seal(1)
        feed(store, device.seal(1))
        old = car(f"old-{number}")
        old.wall_ms = DECEMBER_MS - DAY_MS
        feed(store, old.seal(1))
    found: list[str] = []
    cursor = None
    for _ in range(4):
        value = fleet_reads.completeness_list(
            store.db, who(), "2026-12", limit=2, cursor=cursor, now_ms=NOW_MS
        )
        schemas.CompletenessList.model_validate(value)
        found += [item["device"] for item in value["items"]]
        cursor = value["next"]
    assert cursor is None and found == ["car-5", *(f"car-{n}" for n in (0, 1, 2, 3, 4, 6))]
    assert (value["months"], value["total"]) == (["2026-11", "2026-12"], 7)
    newest = fleet_reads.completeness_list(store.db, who(), None, now_ms=NOW_MS)
    assert newest["month"] == "2026-12"
    empty = fleet_reads.completeness_list(store.db, who(), "2020-01", now_ms=NOW_MS)
    assert (empty["items"], empty["total"]) == ([], 0)


@pytest.mark.parametrize(
    "month", ["2026-13", "2026-00", "0000-01", "26-12", "2026-1", "2026-12-01", "' OR 1", "２０２６-12"]
)
def test_months_that_are_none(store: Store, month: str) -> None:
    with pytest.raises(BadRequest, match="YYYY-MM"):
        fleet_reads.completeness_list(store.db, who(), month, now_ms=NOW_MS)


def test_forks_and_erasure_stand_in_the_record(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "lab")
    with kit.collector() as (store, _, intake):
        device = kit.device("car-1")
        copy = dataclasses.replace(kit.device("car-1"), sealed=[])
        first = device.message(device.seal(2))
        copy.seal([copy.event(), copy.event(), copy.event()])
        intake.process([first, copy.message(copy.sealed[0])])
        [month] = fleet_reads.completeness(store.db, who(), "car-1", NOW_MS)["months"]
        assert (month["forks"], month["complete"]) == (1, False)
        row = fleet_reads.vehicles(store.db, who(), now_ms=NOW_MS)["items"][0]
        assert not row["complete"] and "reason.forked" in reasons(row)
        assert (
            fleet_reads.vehicle(store.db, who(), "car-1", NOW_MS)["alarms"][0]["code"] == "alarm.chain_fork"
        )
        sign = signer(load_keys(kit.config).ledger, START_MS)
        erase_month(store, TENANT, "car-1", "2026-12", "asked", sign=sign, wall_ms=START_MS)
        [month] = fleet_reads.completeness(store.db, who(), "car-1", NOW_MS)["months"]
        assert month["erased"] == 1
        window = fleet_reads.timeline(store.db, who(), "car-1", START_MS - 1, NOW_MS)
        assert [said["code"] for said in window["missing"]] == ["record.window_erased"] and window[
            "lanes"
        ] == []


# --- feed ------------------------------------------------------------------------------------------------


def test_the_feed_resumes_and_says_when_it_cannot(store: Store) -> None:
    fill(store)
    rows = fleet_reads.feed_after(store.db, TENANT, 0, 100)
    assert {row["kind"] for row in rows} == {"vehicle", "incident"}
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    first, last = fleet_reads.feed_bounds(store.db, TENANT)
    assert (first, last) == (1, rows[-1]["id"])
    assert fleet_reads.feed_after(store.db, TENANT, last, 100) == []
    assert fleet_reads.feed_after(store.db, TENANT, 0, 1) == rows[:1]
    with store.transaction() as db:
        fleet.prune(db, 2)
    first, last = fleet_reads.feed_bounds(store.db, TENANT)
    assert first > 1
    assert [row["id"] for row in fleet_reads.feed_after(store.db, TENANT, first - 1, 100)] == [
        row["id"] for row in rows if row["id"] >= first
    ]


def test_reads_write_nothing(store: Store) -> None:
    fill(store)
    db = sqlite3.connect(f"{store.path.as_uri()}?mode=ro", uri=True)
    try:
        fleet_reads.vehicles(db, who(), now_ms=NOW_MS, limit=1)
        fleet_reads.fleet_map(db, who(), NOW_MS)
        fleet_reads.vehicle(db, who(), "d-towed", NOW_MS)
        fleet_reads.timeline(db, who(), "d-towed", START_MS, NOW_MS)
        fleet_reads.completeness_list(db, who(), "2026-12", now_ms=NOW_MS)
        assert db.total_changes == 0
    finally:
        db.close()


def test_a_track_says_how_good_its_fixes_are_as_far_as_the_device_did(store: Store) -> None:
    device = car("car-1")
    good = at(device, 47.0, 8.0)
    body = {**good.body, int(Sig.HORIZONTAL_ACCURACY): 125}
    told = dataclasses.replace(good, body=body)
    feed(store, device.seal([told]))
    device.wall_ms += 60_000
    feed(store, device.seal([at(device, 47.1, 8.1)]))
    value = fleet_reads.timeline(store.db, who(), "car-1", START_MS - 1, NOW_MS)
    schemas.Timeline.model_validate(value)
    first, second = value["track"]
    assert 680 < first["unc_m"] < 690, "12.5 m of the fix and the half diagonal of the grid's cell"
    assert second["unc_m"] is None
    assert first["at"]["unc_ms"] == 100 and first["at"]["source"] == "gnss"


def test_a_track_of_an_older_store_has_no_uncertainty(store: Store) -> None:
    device = car("car-1")
    feed(store, device.seal([at(device, 47.0, 8.0)]))
    with store.transaction() as db:
        db.execute("""UPDATE track SET lanes = '{"p":[47.0,8.0,' || start_ms || ']}'""")
    (point,) = fleet_reads.timeline(store.db, who(), "car-1", START_MS - 1, NOW_MS)["track"]
    assert (point["unc_m"], point["at"]["unc_ms"]) == (None, None)


def test_roadside_nodes_are_told_from_vehicles_and_counted_apart(store: Store) -> None:
    fill(store)
    node = car("node-1")
    feed(store, node.seal([node.event(Kind.SIGHTING, {116: "a1b2c3d4", 121: -70}), beat(node)]))
    value = listed(store)
    kinds = {row["device"]: row["kind"] for row in value["items"]}
    assert kinds.pop("node-1") == "roadside" and set(kinds.values()) == {"vehicle"}
    assert (value["total"], value["nodes"]) == (5, 1)
    assert listed(store, limit=1)["nodes"] == 1, "of all that match, not of the page"
    assert (listed(store, state=["incident"])["total"], listed(store, state=["incident"])["nodes"]) == (1, 0)
    assert listed(store, who(tenant="bank"))["nodes"] == 0


def test_the_months_of_some_vehicles(store: Store) -> None:
    fill(store)

    def found(principal: Principal | None = None, **filters: Any) -> list[str]:
        value = fleet_reads.completeness_list(store.db, principal or who(), None, now_ms=NOW_MS, **filters)
        assert value["total"] == len(value["items"])
        return sorted(row["device"] for row in value["items"])

    assert found() == ["a-ok", "b-low", "c-late", "d-towed"]
    assert found(q="LATE") == ["c-late"] and found(q="car b") == ["b-low"] and found(q="%") == []
    assert found(branch="South") == ["b-low", "c-late"] and found(branch="South", q="low") == ["b-low"]
    with pytest.raises(BadRequest):
        found(q="x" * 81)
    first = fleet_reads.completeness_list(store.db, who(), None, q="a", limit=1, now_ms=NOW_MS)
    with pytest.raises(BadCursor):
        found(cursor=first["next"], limit=1)
