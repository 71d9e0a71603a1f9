"""The store and the intake: exactly once, forks kept, quarantine bounded, nothing lost on a full disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudkit import START_MS, TENANT, Kit, make_kit

from cloud_sync.collector import Message, Reason
from cloud_sync.errors import ConfigError, NotFound, StoreBusy, StoreError
from cloud_sync.runtime import intake as intake_module
from cloud_sync.runtime import quarantine, queries
from cloud_sync.runtime.collector_files import load_config, load_keys
from cloud_sync.runtime.intake import Intake
from cloud_sync.runtime.sequencer import Sequencer
from cloud_sync.runtime.store import Store, log_statement
from cloud_sync.statement import make_statement
from edge.receipt import verify_receipt
from edge.segment import Sealed


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "lab")


@pytest.fixture
def parts(kit: Kit) -> Iterator[tuple[Store, Sequencer, Intake]]:
    with kit.collector() as made:
        yield made


Parts = tuple[Store, Sequencer, Intake]


def count(store: Store, table: str) -> int:
    return int(store.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_bytes_to_log_row_and_receipt(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    outcome, out = intake.process(car.messages(7))
    assert (outcome.accepted, outcome.duplicates, outcome.quarantined) == (7, 0, {})
    (sent,) = out
    assert sent.topic == "hf/1/fund/car-1/rcpt"
    receipt = verify_receipt(sent.payload, kit.trust, tenant=TENANT, device="car-1")
    assert [(i.run, i.number, i.hash, i.index) for i in receipt.items] == [
        (car.run, n, sealed.hash, n) for n, sealed in enumerate(car.sealed)
    ]
    rows = store.db.execute("SELECT hash FROM entries ORDER BY log_index").fetchall()
    assert [row[0] for row in rows] == [sealed.hash for sealed in car.sealed]
    status = queries.log_status(store)
    assert (status["size"], status["verified"], status["pending"]) == (7, True, 0)


def test_duplicates_are_stored_once_and_receipted_again(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    messages = kit.device("car-1").messages(4)
    first, receipts = intake.process([messages[0], *messages])
    again, repeated = intake.process(messages[::-1])
    assert (first.accepted, first.duplicates) == (4, 1)
    assert (again.accepted, again.duplicates) == (0, 4)
    assert count(store, "segments") == count(store, "entries") == count(store, "bodies") == 4
    for batch in (receipts, repeated):
        items = verify_receipt(batch[0].payload, kit.trust).items
        assert sorted(item.index for item in items) == [0, 1, 2, 3]


def test_receipts_go_to_their_device_alone_and_are_split(
    kit: Kit, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "MAX_ITEMS", 2)
    a, b = kit.device("car-1"), kit.device("car-2")
    _, out = parts[2].process([*a.messages(3), *b.messages(1)])
    got = [verify_receipt(o.payload, kit.trust) for o in out]
    assert [(r.device, len(r.items)) for r in got] == [("car-1", 2), ("car-1", 1), ("car-2", 1)]


def test_an_alarm_that_overtakes_is_no_fork(kit: Kit, parts: Parts) -> None:
    messages = kit.device("car-1").messages(5)
    outcome, _ = parts[2].process([messages[4], messages[0], messages[2], messages[1], messages[3]])
    assert (outcome.accepted, outcome.forks) == (5, 0)


def test_a_cloned_device_is_kept_as_evidence_and_alarmed(kit: Kit, parts: Parts) -> None:
    """Field case F19: the card of a node is copied, both copies go on."""
    store, _, intake = parts
    car = kit.device("car-1")
    intake.process(car.messages(3))
    clone = kit.device("car-1")
    clone.number, clone.seq, clone.previous = car.number, car.seq, car.previous
    clone.wall_ms = car.wall_ms + 500
    first, _ = intake.process(car.messages(2))
    second, out = intake.process(clone.messages(2))
    assert (first.forks, second.accepted) == (0, 2)
    assert second.forks == 2
    assert len(verify_receipt(out[0].payload, kit.trust).items) == 2  # nothing of either is lost
    assert count(store, "segments") == count(store, "entries") == 7
    assert [row["kind"] for row in queries.alarms(store, TENANT)] == ["chain_fork", "chain_fork"]
    assert count(store, "forks") == 2


def test_a_copied_card_that_restarts_is_seen_at_its_first_segment(kit: Kit, parts: Parts) -> None:
    car = kit.device("car-1")
    parts[2].process(car.messages(3))
    clone = kit.device("car-1")
    clone.number, clone.seq, clone.previous = car.number, car.seq, car.previous
    clone.restart()
    car.restart()
    car.run = b"\x77" * 16
    first, _ = parts[2].process(car.messages(1))
    second, _ = parts[2].process(clone.messages(1))
    assert (first.forks, second.forks) == (0, 1)


def test_what_is_refused_is_kept_with_its_reason_and_gets_no_receipt(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    bad = [
        Message(car.topic, b"garbage"),
        Message(car.topic, b"garbage"),
        car.message(car.seal(key=kit.tls_key("car-1"))),
    ]
    outcome, out = intake.process(bad)
    assert outcome.quarantined == {Reason.MALFORMED: 2, Reason.WRONG_KEY: 1}
    assert out == [] and count(store, "segments") == 0
    rows = queries.quarantine(store, TENANT)
    assert [(row["reason"], row["seen"]) for row in rows] == [("malformed", 2), ("wrong_key", 1)]
    good, receipts = intake.process([*bad, *kit.device("car-1").messages(1)])
    assert good.accepted == 1 and len(receipts) == 1


def test_quarantine_is_bounded_by_bytes_and_rows(
    kit: Kit, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, intake = parts
    monkeypatch.setattr(quarantine, "DEVICE_BYTES", 5_000)
    monkeypatch.setattr(quarantine, "DEVICE_ROWS", 20)
    topic = kit.device("car-1").topic
    intake.process([Message(topic, bytes([n]) * 1000) for n in range(30)])
    kept = store.db.execute("SELECT count(*), sum(length(data)), max(data) FROM quarantine").fetchone()
    assert kept[0] == 5 and kept[1] == 5_000 and kept[2] == bytes([29]) * 1000
    intake.process([Message(topic, bytes([n])) for n in range(200, 250)])
    assert count(store, "quarantine") == 20
    intake.process([Message(kit.device("car-2").topic, b"x" * 100_000)])
    row = store.db.execute("SELECT count(*) FROM quarantine WHERE device='car-2'").fetchone()
    assert row[0] == 0  # what is larger than a device's whole bound is counted in the log line only


def test_a_device_enrolled_while_running_is_found(
    kit: Kit, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kit.config.devices / TENANT / "car-2.crt"
    certificate = path.read_bytes()
    path.unlink()
    with kit.collector() as (_, _, intake):
        messages = kit.device("car-2").messages(1)
        refused, _ = intake.process(messages)
        path.write_bytes(certificate)
        too_soon, _ = intake.process(messages)
        monkeypatch.setattr(intake_module, "RESCAN_S", 0.0)
        found, out = intake.process(messages)
    assert refused.quarantined == too_soon.quarantined == {Reason.UNKNOWN_DEVICE: 1}
    assert found.accepted == 1 and len(out) == 1


def test_a_full_disk_commits_nothing_and_heals(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    car = kit.device("car-1")
    intake.process(car.messages(3))
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count={pages + 2}")
    messages = car.messages(60, events=20)
    with pytest.raises(StoreBusy, match="free space"):
        intake.commit(messages)
    assert count(store, "segments") == 3
    store.db.execute("PRAGMA max_page_count=1000000")
    outcome, out = intake.process(messages)
    assert outcome.accepted == 60 and len(out) == 1
    assert queries.log_status(store)["verified"]


def test_a_locked_store_is_tried_again(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    store.db.execute("PRAGMA busy_timeout=10")
    messages = kit.device("car-1").messages(1)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            intake.commit(messages)
        other.execute("ROLLBACK")
    other.close()
    assert intake.process(messages)[0].accepted == 1


class _Broken:
    """A projection that writes something and then cannot go on."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_segment(self, db: sqlite3.Connection, sealed: Sealed, received_wall_ms: int) -> list[bytes]:
        db.execute("INSERT INTO alarms(tenant, device, kind, raised_ms, detail) VALUES('','','half',0,'')")
        raise self.error


def test_a_failing_projection_neither_stops_the_log_nor_leaves_halves(kit: Kit, parts: Parts) -> None:
    store, _, intake = parts
    intake._projector = _Broken(KeyError("sentence"))
    outcome, out = intake.process(kit.device("car-1").messages(2))
    assert outcome.accepted == 2 and len(out) == 1
    assert [row["kind"] for row in queries.alarms(store, TENANT)] == ["projection_failed"] * 2
    assert queries.alarms(store, "") == []


def test_statements_are_logged_once_and_only_for_their_tenant(kit: Kit, parts: Parts) -> None:
    store, sequencer, _ = parts
    data = make_statement("title", TENANT, START_MS, {1: b"t"}, load_keys(kit.config).ledger)
    with store.transaction() as db:
        log_statement(db, TENANT, data)
        log_statement(db, TENANT, data)
    assert sequencer.step() == 1
    assert count(store, "statements") == count(store, "entries") == 1
    for tenant, wrong in (("bank", data), (TENANT, b"rubbish")):
        with pytest.raises(StoreError), store.transaction() as db:
            log_statement(db, tenant, wrong)


def test_a_store_of_another_log_or_of_nothing_is_refused(kit: Kit, tmp_path: Path, parts: Parts) -> None:
    store = parts[0]
    with pytest.raises(ConfigError, match="another log"):
        store.identify({"origin": b"log.example/other"})
    with pytest.raises(NotFound, match="has the collector run"):
        Store(tmp_path / "none.db", read_only=True)
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError):
        Store(tmp_path / "text.db")
    with Store(store.path, read_only=True) as reader, pytest.raises(StoreBusy), reader.transaction() as db:
        db.execute("DELETE FROM segments")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[collector]\n[mqtt]\nhost='h'\nport=1\n", "origin"),
        ("[collector]\norigin='o'\n", r"\[mqtt\]"),
        ("[collector]\norigin='o'\n[mqtt]\nhost='h'\nport=0\n", "port"),
        ("[collector]\norigin='o o'\n[mqtt]\nhost='h'\nport=1\n", "origin"),
        (
            "[collector]\norigin='o'\n[mqtt]\nhost='h'\nport=1\n[policy]\naccept_kinds=['alive']\n",
            "accept_kinds",
        ),
        ("[collector]\norigin='o'\ncolour='red'\n[mqtt]\nhost='h'\nport=1\n", "colour"),
        ("[collecter]\n", "collecter"),
        ("no toml", "collector.toml"),
    ],
)
def test_a_configuration_that_cannot_be_meant_says_where(kit: Kit, text: str, names: str) -> None:
    kit.config_path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=names):
        load_config(kit.config_path)


def test_missing_and_wrong_keys_are_named(kit: Kit) -> None:
    (kit.config.keys / "log.key").unlink()
    with pytest.raises(ConfigError, match=r"log\.key"):
        load_keys(kit.config)
    (kit.config.keys / "log.key").write_bytes((kit.config.keys / "receipt.key").read_bytes())
    with pytest.raises(ConfigError, match="Ed25519"):
        load_keys(kit.config)
