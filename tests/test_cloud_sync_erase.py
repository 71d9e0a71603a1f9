"""Erasing a vehicle-month: the content is gone from the file, and every proof still holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudkit import START_MS, TENANT, Device, Kit, make_kit

from cloud_sync.collector import Message
from cloud_sync.errors import ConfigError, NotFound, StoreBusy
from cloud_sync.evidence.__main__ import text
from cloud_sync.evidence.verify import verify
from cloud_sync.log.compact import root_of_entries
from cloud_sync.log.tiles import consistency_proof
from cloud_sync.runtime import bundles, queries
from cloud_sync.runtime.collector_files import load_keys
from cloud_sync.runtime.erase import Erased, Preview, erase_month, preview_month, signer
from cloud_sync.runtime.intake import Intake
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import Store
from cloud_sync.statement import ERASURE, parse_statement
from edge.event import Key, Kind
from edge.merkle import verify_consistency
from edge.note import verify_checkpoint
from edge.receipt import verify_receipt
from firmware_bridge.wire import cose
from models.verdict import Action

Parts = tuple[Store, Sequencer, Intake]
NOVEMBER_END_MS = 1_796_083_200_000
"""2026-12-01T00:00:00Z."""
SECRET = "Behind the mill at the river, third bay"


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


@pytest.fixture
def parts(kit: Kit) -> Iterator[Parts]:
    with kit.collector() as made:
        yield made


def secret(device: Device) -> Message:
    return device.message(device.seal([device.event(Kind.FACT, {int(Key.TEXT): SECRET})]))


def erase(
    kit: Kit, store: Store, device: str = "car-1", month: str = "2026-11", reason: str = "asked by owner"
) -> Erased:
    sign = signer(load_keys(kit.config).ledger, START_MS)
    return erase_month(store, TENANT, device, month, reason, sign=sign, wall_ms=START_MS)


def test_one_vehicle_month_goes_and_every_proof_stays(kit: Kit, parts: Parts, tmp_path: Path) -> None:
    store, sequencer, intake = parts
    car, other = kit.device("car-1"), kit.device("car-2")
    car.wall_ms = other.wall_ms = NOVEMBER_END_MS - 60_000
    november = [*car.messages(3), secret(car), *other.messages(4)]
    november.append(car.message(car.seal([car.incident()])))
    car.wall_ms = START_MS
    december = car.messages(5)
    intake.process([*november, *december])
    before = verify_checkpoint(sequencer.note or b"", kit.trust.origin, kit.trust.log_key)
    entries = store.db.execute("SELECT log_index, hash FROM entries ORDER BY 1").fetchall()
    neighbour = bundles.export_device(store, TENANT, "car-2", tmp_path / "before.hfb").read_bytes()

    erased = erase(kit, store)
    assert (erased.segments, erased.rows >= 1) == (5, True)
    sequencer.step()

    # The log: the same entries, one statement more, the same tree continued.
    assert store.db.execute("SELECT log_index, hash FROM entries ORDER BY 1").fetchall()[:-1] == entries
    size, root = root_of_entries(
        r[0] for r in store.db.execute("SELECT hash FROM entries ORDER BY log_index")
    )
    after = verify_checkpoint(sequencer.note or b"", kit.trust.origin, kit.trust.log_key)
    assert (size, root) == (after.size, after.root)
    assert size == len(entries) + 1
    proof = consistency_proof(before.size, after.size, store.tile)
    verify_consistency(before.size, after.size, before.root, after.root, proof)
    assert queries.log_status(store)["verified"]

    # The other vehicle: its old bundle and a new one both verify, whole.
    assert verify(neighbour, kit.trust).complete
    fresh = bundles.export_device(store, TENANT, "car-2", tmp_path / "after.hfb").read_bytes()
    assert verify(fresh, kit.trust).complete

    # The erased vehicle: places proven, December readable, November gone, the erasure itself signed.
    report = verify(
        bundles.export_device(store, TENANT, "car-1", tmp_path / "own.hfb").read_bytes(), kit.trust
    )
    assert report.failures == [] and not report.complete
    assert (report.segments, report.erased, report.events) == (10, 5, 15)
    assert any("5 erased segments" in sentence for sentence in report.unproven)
    assert "a live clock; of the 5 erased segments unknown: the clock's kind was in what is" in text(report)
    assert any("erasure" in line and "2026-11" in line for line in report.titles)
    assert queries.incidents(store, TENANT) == []


def test_a_preview_names_what_an_erasure_takes_and_writes_nothing(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    car.wall_ms = NOVEMBER_END_MS - 60_000
    november = car.messages(3)
    november.append(car.message(car.seal([car.incident(1), car.incident(2)])))
    car.wall_ms = START_MS
    december = [
        *car.messages(2),
        car.message(car.seal([car.incident(2, Action.CLOSED), car.incident(1, Action.UPDATED)])),
        car.message(car.seal([car.incident(3)])),
    ]
    intake.process([*november, *december, *kit.device("car-2").messages(1)])
    before = list(store.db.iterdump())

    def preview(month: str) -> Preview:
        return preview_month(store, TENANT, "car-1", month, "asked by owner")

    plan, later, none = preview("2026-11"), preview("2026-12"), preview("2027-03")
    assert [one.incident for one in plan.open_incidents] == [1]  # 2 is closed, 3 of December
    assert plan.open_incidents[0].cause == "moved_without_wheels"
    assert plan.open_incidents[0].opened_at.startswith("2026-11-30T23:59:")
    assert [one.incident for one in later.open_incidents] == [1, 3]  # 1 was updated in December
    assert none == Preview(0, 0, ())
    assert list(store.db.iterdump()) == before
    erased = erase(kit, store)
    assert (plan.segments, plan.size) == (erased.segments, erased.size) == (4, plan.size)
    again = preview("2026-11")
    assert (again.segments, again.size, again.open_incidents) == (0, 0, ())


def test_a_preview_for_a_device_that_never_came(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    intake.process(kit.device("car-1").messages(1))
    for tenant, device in ((TENANT, "car-9"), ("bank", "car-1"), (TENANT, "")):
        with pytest.raises(NotFound, match="knows no device"):
            preview_month(store, tenant, device, "2026-12", "x")
    with pytest.raises(ConfigError):
        preview_month(store, TENANT, "car-1", "2026-13", "x")
    with pytest.raises(ConfigError, match="reason"):
        preview_month(store, TENANT, "car-1", "2026-12", "")


def test_a_bundle_with_everything_erased_says_where_its_clock_was(
    kit: Kit, parts: Parts, tmp_path: Path
) -> None:
    store, _, intake = parts
    intake.process(kit.device("car-1").messages(2))
    erase(kit, store, month="2026-12")
    path = bundles.export_device(store, TENANT, "car-1", tmp_path / "b.hfb")
    report = verify(path.read_bytes(), kit.trust)
    assert report.ok and report.erased == 2
    assert "made under: unknown: the clock's kind was in what is erased" in text(report)
    assert any("the clock's kind was in what is erased" in sentence for sentence in report.unproven)


def test_what_is_erased_is_not_in_the_file_any_more(kit: Kit, parts: Parts) -> None:
    store, sequencer, intake = parts
    car = kit.device("car-1")
    car.wall_ms = NOVEMBER_END_MS - 60_000
    intake.process([secret(car), Message(car.topic, SECRET.encode())])
    files = [store.path, store.path.with_name("store.db-wal")]
    assert any(SECRET.encode() in path.read_bytes() for path in files if path.exists())
    kit.clock.wall_ms = NOVEMBER_END_MS - 1
    erase(kit, store, month="2026-11")
    erase(kit, store, month="2026-12")  # the refused message came in December
    sequencer.step()
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in files:
        assert not path.exists() or SECRET.encode() not in path.read_bytes()


def test_a_segment_over_midnight_goes_with_either_month(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    car.wall_ms = NOVEMBER_END_MS - 1500
    intake.process(car.messages(1, events=4))
    assert store.db.execute("SELECT month, month_last FROM bodies").fetchall() == [("2026-11", "2026-12")]
    assert erase(kit, store, month="2026-10").segments == 0
    assert erase(kit, store, month="2027-01").segments == 0
    assert erase(kit, store, month="2026-12").segments == 1


def test_erasing_twice_says_nothing_twice(kit: Kit, parts: Parts) -> None:
    store, sequencer, intake = parts
    intake.process(kit.device("car-1").messages(2))
    first, second = erase(kit, store, month="2026-12"), erase(kit, store, month="2026-12")
    assert first.segments == 2 and first.statement is not None
    assert (second.segments, second.size, second.rows, second.statement) == (0, 0, 0, None)
    assert sequencer.step() == 1
    key = load_keys(kit.config).ledger.public_key()
    made = parse_statement(first.statement, {cose.key_id(key): key}.get)
    assert made.type == ERASURE
    assert made.body == {1: "car-1", 2: "2026-12", 3: 2, 4: first.size, 5: "asked by owner"}


def test_a_resent_segment_does_not_bring_its_content_back(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    messages = kit.device("car-1").messages(2)
    intake.process(messages)
    erase(kit, store, month="2026-12")
    outcome, out = intake.process(messages)
    assert outcome.duplicates == 2
    assert len(verify_receipt(out[0].payload, kit.trust).items) == 2
    assert store.db.execute("SELECT count(data) FROM bodies WHERE device='car-1'").fetchone()[0] == 0


def test_only_that_tenant_and_device(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    intake.process([*kit.device("car-1").messages(1), *kit.device("car-2").messages(1)])
    sign = signer(load_keys(kit.config).ledger, START_MS)
    assert erase_month(store, "bank", "car-1", "2026-12", "x", sign=sign, wall_ms=START_MS).segments == 0
    assert erase(kit, store, device="car-2", month="2026-12").segments == 1
    assert store.db.execute("SELECT count(data) FROM bodies WHERE device='car-1'").fetchone()[0] == 1


@pytest.mark.parametrize(
    "month", ["2026-13", "2026-1", "26-01", "2026-00", "0000-01", "9999-12", "２０２６-12", "x", ""]
)
def test_a_month_that_is_none_is_refused(kit: Kit, parts: Parts, month: str) -> None:
    with pytest.raises(ConfigError):
        erase(kit, parts[0], month=month)


@pytest.mark.parametrize("reason", ["", "x" * 201, "a\nb"])
def test_a_reason_that_cannot_be_signed_is_refused(kit: Kit, parts: Parts, reason: str) -> None:
    with pytest.raises(ConfigError, match="reason"):
        erase(kit, parts[0], reason=reason)


def test_a_reader_that_keeps_old_pages_is_named_and_the_next_call_cleans_up(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    store.db.execute("PRAGMA busy_timeout=10")
    car = kit.device("car-1")
    intake.process([secret(car)])
    with Store(store.path, read_only=True) as reader:
        reader.db.execute("BEGIN")
        reader.db.execute("SELECT count(*) FROM bodies").fetchone()
        with pytest.raises(StoreBusy, match="still reads"):
            erase(kit, store, month="2026-12")
        reader.db.execute("ROLLBACK")
    assert erase(kit, store, month="2026-12").segments == 0
    for path in (store.path, store.path.with_name("store.db-wal")):
        assert SECRET.encode() not in path.read_bytes()
