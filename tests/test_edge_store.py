"""The outbox on disk: durable on return, bounded, and alive whatever happens to its file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge_kit import EPOCH_NS, SIGNER, draft, rows

from edge.chain import check
from edge.config import OutboxLimits
from edge.errors import StoreError, StoreFull, StoreReadOnly
from edge.intake import COMMIT_AT, MAX_PENDING, Batch, Intake
from edge.runtime.high_water import HighWater, Mark
from edge.runtime.outbox import MAX_REMEMBERED, RESERVE_BYTES, Outbox, lost_in_crash
from edge.runtime.store import Store, StoreDamaged, salvage, translate
from edge.segment import Lost, Previous, Sealed
from firmware_bridge.wire.stamp import NS

SEAL_NS = 60 * NS


class Said:
    """Collects what an outbox says."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.lines.append((kind, fields))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.lines]


class Node:
    """An outbox with its intake, as the daemon uses them, without its event loop."""

    def __init__(self, folder: Path, limits: OutboxLimits | None = None) -> None:
        self.said = Said()
        self.folder = folder
        self.outbox = Outbox(
            folder, SIGNER, limits or OutboxLimits(), seal_interval_ns=SEAL_NS, say=self.said
        )
        self.intake = Intake(self.outbox.run)
        self.second = 0.0

    def add(self, count: int = 1, *, urgent: bool = False, text: str = "x") -> None:
        for _ in range(count):
            self.second += 1
            self.intake.add(draft(self.second, urgent=urgent, text=text))
            if self.outbox.high_water:
                self.outbox.high_water.given_out(self.intake.next_seq, round(self.second * NS))

    def commit(self, *, flush: bool = False, clean: bool = False, batch: Batch | None = None) -> None:
        batch = batch or self.intake.take()
        now = round(self.second * NS)
        try:
            self.outbox.commit(batch, now_ns=now, wall_ns=EPOCH_NS + now, flush=flush, clean=clean)
        except StoreError:
            self.intake.put_back()
            raise
        self.intake.done()

    def start(self) -> Node:
        self.add(urgent=True, text="run start")
        self.commit()
        return self

    def segments(self) -> list[Sealed]:
        return rows(self.folder / "outbox.db")


def entries(segments: list[Sealed]) -> list[tuple[bytes, int, bytes]]:
    return [(s.segment.run, s.segment.number, s.hash) for s in segments]


# ---- acceptance ------------------------------------------------------------------------------------


def test_what_is_committed_is_there_after_a_reopen_without_a_close(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    node.add(3)
    node.commit()
    again = Store(tmp_path / "outbox.db", SIGNER, seal_interval_ns=SEAL_NS)
    assert [item.event.seq for item in again.unsealed] == [1, 2, 3]
    assert again.next_seq == 4 and not again.clean
    assert again.state is not None and again.state.number == 1
    again.close()


def test_an_event_is_unsealed_or_in_one_segment(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    for _ in range(7):
        node.add(17)
        node.commit()
    sealed = [event.seq for s in node.segments() for event in s.segment.events]
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        unsealed = [seq for (seq,) in db.execute("SELECT seq FROM events ORDER BY seq")]
    assert sealed + unsealed == list(range(7 * 17 + 1)) and unsealed


def test_telemetry_is_sealed_by_age_and_an_alarm_at_once_behind_its_backlog(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    node.add(2)
    node.commit()
    assert len(node.segments()) == 1
    assert not node.outbox.seal_due(round((2 + 59) * NS)) and node.outbox.seal_due(round((2 + 60) * NS))
    node.add(urgent=True)
    node.add(1)
    node.commit()
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        lanes = db.execute("SELECT lane, events FROM segments ORDER BY id").fetchall()
    assert lanes == [(0, 1), (1, 2), (0, 1)]
    assert node.outbox.figures.unsealed == 1


def test_settings_of_the_file(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    store = node.outbox.ensure(0)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA page_size").fetchone() == (4096,)


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    Node(tmp_path).start().outbox.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="schema 99"):
        Store(path, SIGNER, seal_interval_ns=SEAL_NS)
    assert path.exists()


# ---- runs ------------------------------------------------------------------------------------------


def test_a_clean_end_leaves_nothing_to_tell(tmp_path: Path) -> None:
    first = Node(tmp_path).start()
    first.add(5)
    first.commit(flush=True, clean=True)
    first.outbox.close()
    second = Node(tmp_path).start()
    report = check(second.segments())
    assert report.complete and report.lost == ()
    assert "continues run" in second.outbox.opening
    assert isinstance(second.segments()[-1].segment.previous, Previous)


def test_a_crash_seals_under_the_old_run_and_counts_what_was_lost(tmp_path: Path) -> None:
    first = Node(tmp_path).start()
    first.add(5)
    first.commit()
    first.add(7)  # read, never committed; then kill -9: nothing is closed
    second = Node(tmp_path).start()
    segments = second.segments()
    report = check(segments)
    assert report.complete and report.lost == ((Lost.CRASH, 7),)
    assert [len(s.segment.events) for s in segments] == [1, 5, 1]
    assert segments[1].segment.run == first.intake.run != segments[2].segment.run
    (tombstone,) = segments[2].segment.tombstones
    assert (tombstone.run, tombstone.first, tombstone.last) == (first.intake.run, 6, 12)


def test_a_crash_before_the_store_ever_worked_is_told_too(tmp_path: Path) -> None:
    Node(tmp_path).start().outbox.close()
    silent = Node(tmp_path)
    silent.add(4)  # its store never opened
    third = Node(tmp_path).start()
    report = check(third.segments())
    assert dict(report.lost)[Lost.CRASH] == 4
    assert third.segments()[-1].segment.tombstones[-1].run == silent.intake.run


def test_a_power_cut_gives_an_upper_bound(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    store = node.outbox.ensure(0)
    mark = Mark(node.intake.run, next_seq=1, committed_seq=1, mono_ns=5, same_boot=False)
    lost = lost_in_crash(store, mark)
    assert lost is not None and (lost.first, lost.count) == (1, COMMIT_AT)
    same = Mark(node.intake.run, next_seq=1, committed_seq=1, mono_ns=5, same_boot=True)
    assert lost_in_crash(store, same) is None


def test_high_water_survives_a_torn_slot_and_a_full_list(tmp_path: Path) -> None:
    path = tmp_path / "high-water"
    for n in range(1, 20):
        water = HighWater(path)
        water.begin(n.to_bytes(16, "big"))
        water.given_out(n, n * 10)
    water = HighWater(path)
    assert [mark.next_seq for mark in water.before] == list(range(19, 3, -1))
    data = bytearray(path.read_bytes())
    newest = 0 if int.from_bytes(data[4:12], "little") > int.from_bytes(data[1028:1036], "little") else 1
    data[newest * 1024 + 20] ^= 0xFF
    path.write_bytes(data)
    assert HighWater(path).before[0].next_seq in (18, 19)
    path.write_bytes(bytes(4096))
    assert HighWater(path).before == ()
    path.write_bytes(b"short")
    assert HighWater(path).before == ()


# ---- receipts --------------------------------------------------------------------------------------


def test_forget_asks_for_run_number_and_hash(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    node.add(50)
    node.commit()
    held = entries(node.segments())
    run, number, digest = held[0]
    assert node.outbox.forget(
        [(run, number, bytes(32)), (bytes(16), number, digest), (run, 9, digest)], 0
    ) == (0, 0)
    assert node.outbox.conflicting([(run, number, bytes(32)), held[1]], 0) == [(run, number)]
    assert node.outbox.forget(held, 0) == (2, 0)
    assert node.outbox.forget(held, 0) == (0, 0)
    assert node.segments() == []
    node.add(urgent=True)
    node.commit()
    assert node.segments()[0].segment.number == 2, "the chain goes on after everything was forgotten"


def test_what_cannot_be_deleted_now_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path).start()
    node.add(50)
    node.commit()
    held = entries(node.segments())
    with monkeypatch.context() as patch:
        patch.setattr(Store, "forget", _full)
        assert node.outbox.forget(held, 0) == (0, 2)
    assert len(node.segments()) == 2
    node.add()
    node.commit()
    assert node.segments() == [] and not node.outbox.remembered


def _full(*_: object, **__: object) -> int:
    raise StoreFull("no space")


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path).start()
    monkeypatch.setattr(Store, "forget", _full)
    many = [(bytes(16), n, bytes(32)) for n in range(MAX_REMEMBERED + 10)]
    assert node.outbox.forget(many, 0) == (0, MAX_REMEMBERED)


# ---- bounds ----------------------------------------------------------------------------------------


def test_the_outbox_stays_within_its_bytes_and_keeps_alarms(tmp_path: Path) -> None:
    limits = OutboxLimits(max_bytes=1 << 18, keep_one_in=4)
    node = Node(tmp_path, limits).start()
    for n in range(120):
        node.add(25, text="t" * 100)
        if n % 10 == 0:
            node.add(urgent=True, text="alarm")
        node.commit()
        assert node.outbox.figures.bytes <= limits.max_bytes + 32_768
    assert node.outbox.dropped_events > 0 and "thinned" in node.said.kinds()
    node.commit(flush=True)
    report = check(node.segments())
    assert report.complete, report
    alarms = [e for s in node.segments() for e in s.segment.events if e.body.get(115) == "alarm"]
    assert len(alarms) == 12
    assert report.events + dict(report.lost)[Lost.THINNED] == node.intake.next_seq


def test_age_drops_telemetry_only(tmp_path: Path) -> None:
    node = Node(tmp_path, OutboxLimits(max_age_s=3600)).start()
    node.add(50)
    node.commit()
    node.outbox.age(EPOCH_NS + 3600 * NS)
    assert len(node.segments()) == 2
    node.outbox.age(EPOCH_NS + 5000 * NS)
    assert [s.segment.number for s in node.segments()] == [0]


# ---- damage ----------------------------------------------------------------------------------------


def _garbage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all, not at all")


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _garbage_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))


@pytest.mark.parametrize("damage", [_garbage_header, _truncate, _garbage_page])
def test_a_damaged_file_is_set_aside_and_the_node_goes_on(tmp_path: Path, damage: Any) -> None:
    first = Node(tmp_path).start()
    for _ in range(20):
        first.add(50)
        first.commit()
    first.outbox.close()
    damage(tmp_path / "outbox.db")
    second = Node(tmp_path).start()
    assert (tmp_path / "outbox.db.damaged-1").exists()
    assert "store_damaged" in second.said.kinds() and second.outbox.set_aside == 1
    newest = second.segments()[-1].segment
    assert newest.previous == "store was damaged and set aside as outbox.db.damaged-1"
    assert newest.run == second.intake.run
    second.outbox.close()
    damage(tmp_path / "outbox.db")
    Node(tmp_path).start()
    assert (tmp_path / "outbox.db.damaged-2").exists()


def test_what_can_be_read_of_a_damaged_file_is_saved(tmp_path: Path) -> None:
    first = Node(tmp_path).start()
    for _ in range(30):
        first.add(50, text="t" * 200)
        first.commit()
    held = entries(first.segments())
    first.outbox.close()
    path = tmp_path / "outbox.db"
    with path.open("r+b") as file:  # one page in the middle
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))
    saved = {(row[1], row[2], row[4]) for row in salvage(path)}
    assert saved <= set(held) and len(saved) >= len(held) // 2


def test_damage_at_work_begins_a_new_run_that_names_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path).start()
    node.add(5)
    node.commit()  # accepted, unsealed: only in memory once the file is gone
    node.add(2)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", _broken)
        with pytest.raises(StoreDamaged):
            node.commit()
    old = node.intake.run
    assert node.outbox.run != old
    node.intake.restart(node.outbox.run, draft(99, urgent=True, text="run start"))
    node.commit(flush=True)
    report = check(node.segments())
    assert report.complete and report.lost == (), report
    assert [e.body[115] for s in node.segments() for e in s.segment.events] == [
        "run start", *["x"] * 5, "run start", "x", "x",
    ]  # fmt: skip


def _broken(*_: object, **__: object) -> None:
    raise StoreDamaged("outbox: database disk image is malformed")


# ---- no space, no writing --------------------------------------------------------------------------


def test_a_full_store_accepts_nothing_and_heals(tmp_path: Path) -> None:
    node = Node(tmp_path).start()
    store = node.outbox.ensure(0)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages + 2}")
    state = store.state
    node.add(60, text="t" * 400)
    with pytest.raises(StoreFull, match="nothing needs a restart"):
        node.commit()
    assert store.state == state and store.unsealed == [] and len(node.segments()) == 1
    assert len(node.intake) == 60
    store._db.execute("PRAGMA max_page_count=100000")
    node.commit(flush=True)
    assert check(node.segments()).complete and len(node.intake) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = shutil.which("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_f21_full_disk_receipts_delete_and_alarms_are_stored(small_disk: Path) -> None:
    """A disk that is full for real: nothing is resent after its receipt, and an alarm still goes in."""
    node = Node(small_disk)
    (small_disk / "reserve").write_bytes(bytes(RESERVE_BYTES))
    node.start()
    node.add(200, text="t" * 100)
    node.commit()
    held = entries(node.segments())
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    refused = 0
    for _ in range(200):
        node.add(25, text="t" * 100)
        try:
            node.commit()
        except StoreFull:
            refused += 1
            break
    assert refused, "the file system was meant to be full"
    gone, remembered = node.outbox.forget(held, 0)
    assert gone + remembered >= len(held)
    assert not set(held) & set(entries(node.segments())) or node.outbox.remembered >= set(held)
    node.outbox.release_reserve()
    node.add(urgent=True, text="alarm")
    assert node.intake.shed()
    node.commit(batch=node.intake.take_alarms())
    alarm = node.segments()[-1].segment
    assert alarm.events[-1].body[115] == "alarm"
    assert sum(t.count for t in alarm.tombstones if t.reason is Lost.REFUSED_FULL) == node.intake.refused
    filler.unlink()
    node.add(3)
    node.commit(flush=True)
    report = check([*node.segments()])
    assert not report.breaks and not report.forks
    assert node.outbox.forget(held, 0)[1] == 0 and not set(held) & set(entries(node.segments()))


def test_a_folder_that_becomes_read_only_is_survived(small_disk: Path) -> None:
    node = Node(small_disk).start()
    node.add(3)
    node.commit()
    store = node.outbox.ensure(0)
    store._db.execute("PRAGMA query_only=1")
    node.add(3)
    with pytest.raises(StoreReadOnly, match="owner and mount"):
        node.commit()
    node.commit(flush=True)  # opened anew: writable again
    assert check(node.segments()).events == 7


@pytest.mark.parametrize(
    ("code", "flags", "free", "kind", "says"),
    [
        (sqlite3.SQLITE_IOERR_WRITE, os.ST_RDONLY, 0, StoreReadOnly, "mount it writable"),
        (sqlite3.SQLITE_FULL, os.ST_RDONLY, 0, StoreReadOnly, "mount it writable"),
        (sqlite3.SQLITE_CANTOPEN, os.ST_RDONLY, 1 << 20, StoreReadOnly, "kernel log"),
        (sqlite3.SQLITE_READONLY, 0, 1 << 20, StoreReadOnly, "owner and mount"),
        (sqlite3.SQLITE_IOERR_WRITE, 0, 0, StoreFull, "free some"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, 0, 4096, StoreFull, "free some"),
        (sqlite3.SQLITE_FULL, 0, 1 << 20, StoreFull, "free some"),
        (sqlite3.SQLITE_IOERR_WRITE, 0, 1 << 20, StoreError, "check the card"),
        (sqlite3.SQLITE_IOERR_FSYNC, 0, 1 << 20, StoreError, "1048576 bytes are free"),
        (sqlite3.SQLITE_CANTOPEN, 0, 0, StoreError, "owner and mode"),
    ],
)
def test_an_error_of_the_disk_is_named_after_asking_it(
    monkeypatch: pytest.MonkeyPatch, code: int, flags: int, free: int, kind: type[StoreError], says: str
) -> None:
    disk = os.statvfs_result((4096, 1, 0, free, free, 0, 0, 0, flags, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    told = translate(error, Path("/state"))
    assert type(told) is kind and says in str(told)


def test_a_state_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert "check its mount" in str(translate(error, tmp_path / "gone"))


def test_a_read_only_file_system_is_named(small_disk: Path) -> None:
    Node(small_disk).start().outbox.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    node = Node(small_disk)
    assert node.outbox.high_water is None and "high_water_unusable" in node.said.kinds()
    node.add()
    with pytest.raises(StoreError):
        node.commit()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    node.commit(flush=True)
    assert check(node.segments()).complete


# ---- the queue in memory ---------------------------------------------------------------------------


def test_a_full_queue_drops_the_oldest_telemetry_and_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.add(urgent=True)
    node.add(MAX_PENDING + 9)
    assert len(node.intake) == MAX_PENDING and node.intake.refused == 10
    batch = node.intake.take()
    assert batch.items[0].urgent and batch.items[1].event.seq == 11
    (lost,) = batch.lost
    assert (lost.reason, lost.first, lost.last, lost.count) == (Lost.REFUSED_FULL, 1, 10, 10)
    with pytest.raises(RuntimeError):
        node.intake.take()
    node.intake.put_back()
    assert node.intake.take() == batch


def test_an_oversized_event_uses_no_number(tmp_path: Path) -> None:
    intake = Intake(bytes(16))
    with pytest.raises(Exception, match="4096"):
        intake.add(draft(1, text="x" * 5000))
    assert intake.add(draft(1)).event.seq == 0


def test_due_by_time_number_and_alarm() -> None:
    intake = Intake(bytes(16))
    assert not intake.due(100 * NS, 5 * NS)
    intake.add(draft(10))
    assert not intake.due(14 * NS, 5 * NS) and intake.due(15 * NS, 5 * NS)
    intake.add(draft(11, urgent=True))
    assert intake.due(11 * NS, 5 * NS)
    many = Intake(bytes(16))
    for _ in range(COMMIT_AT):
        many.add(draft(0))
    assert many.due(0, 5 * NS)
