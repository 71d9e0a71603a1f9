"""The sequencer: a crash at every step, failed or failed but persisted, then a reopening; the fences."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_sync.errors import ConfigError, Fenced, LogDamaged, LogError, RolledBack, StoreError
from cloud_sync.log import tiles
from cloud_sync.log.checkpoint import public_bytes
from cloud_sync.runtime import queries, sequencer
from cloud_sync.runtime.sequencer import FLOOR_S, TIME_EVERY_S, Published, Sequencer
from cloud_sync.runtime.store import KIND_SEGMENT, Store
from edge.merkle import verify_consistency
from edge.note import Checkpoint, verify_checkpoint, verify_time

ORIGIN = "log.example/fund"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)


class Crash(BaseException):
    """The process dies here."""


class FailingStore(Store):
    """Dies at the n-th commit, before it takes effect or after."""

    commits_left = 1_000_000
    after = False

    def die_at(self, commits: int, after: bool) -> None:
        self.commits_left, self.after = commits, after

    def commit(self) -> None:
        self.commits_left -= 1
        if self.commits_left < 0 and not self.after:
            raise Crash
        super().commit()
        if self.commits_left < 0:
            raise Crash


class FailingPublished(Published):
    """Dies at the replacement of the file, before or after."""

    die = False
    after = False

    def die_now(self, after: bool) -> None:
        self.die, self.after = True, after

    def write(self, note: bytes) -> None:
        if self.die and not self.after:
            raise Crash
        super().write(note)
        if self.die:
            raise Crash


def put(store: Store, *names: str) -> None:
    with store.transaction() as db:
        db.executemany(
            "INSERT INTO pending(tenant, kind, hash) VALUES('fund', ?, ?)",
            [(KIND_SEGMENT, name.encode().ljust(32, b".")) for name in names],
        )


def start(store: Store, published: Published | None = None, key: Ed25519PrivateKey = KEY) -> Sequencer:
    files = published or Published(store.path.with_name("published.checkpoint"))
    return Sequencer(store, ORIGIN, key, files, lambda: 1)


def notes(path: Path) -> dict[int, set[bytes]]:
    """Every root ever committed, by size."""
    with Store(path, read_only=True) as store:
        out: dict[int, set[bytes]] = {}
        for size, root in store.db.execute("SELECT size, root FROM checkpoints"):
            out.setdefault(size, set()).add(root)
        return out


def head(note: bytes | None) -> Checkpoint:
    assert note is not None
    return verify_checkpoint(note, ORIGIN, public_bytes(KEY))


def test_a_step_logs_in_order_signs_and_publishes(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        log = start(store)
        assert log.note is None and log.step() == 0
        put(store, "a", "b")
        assert log.step() == 2
        put(store, "c")
        assert log.step() == 1 and log.step() == 0
        rows = store.db.execute("SELECT log_index, hash FROM entries ORDER BY log_index").fetchall()
        assert [(n, bytes(h).rstrip(b".")) for n, h in rows] == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert head(log.note).size == log.size == 3
        assert (tmp_path / "published.checkpoint").read_bytes() == log.note
        assert queries.log_status(store)["verified"]


def test_more_than_a_batch_is_logged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MAX_BATCH", 10)
    with Store(tmp_path / "store.db") as store:
        log = start(store)
        put(store, *(str(n) for n in range(35)))
        assert log.step() == 35 and head(log.note).size == 35


STEPS: dict[str, Callable[[FailingStore, FailingPublished, bool], None]] = {
    "assign": lambda store, files, after: store.die_at(0, after),
    "store the note": lambda store, files, after: store.die_at(1, after),
    "publish": lambda store, files, after: files.die_now(after),
}


@pytest.mark.parametrize("after", [False, True], ids=["failed", "failed but persisted"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
def test_a_crash_at_every_step_recovers_and_never_signs_two_roots(
    step: str, after: bool, first: bool, tmp_path: Path
) -> None:
    store = FailingStore(tmp_path / "store.db")
    files = FailingPublished(tmp_path / "published.checkpoint")
    log = start(store, files)
    before = 0
    if not first:
        put(store, "x", "y", "z")
        log.step()
        put(store, "w")
        before = log.step() + 3
    put(store, "a", "b")
    STEPS[step](store, files, after)
    with pytest.raises(Crash):
        log.step()
    store.close()
    seen = files.read()
    committed = notes(store.path)

    with Store(store.path) as again:
        log = start(again)
        log.step()
        assert head(log.note).size == before + 2
        assert queries.log_status(again)["verified"]
        assert files.read() == log.note
        for size, roots in notes(store.path).items():
            assert len(roots) == 1 and committed.get(size, roots) == roots
        if seen is not None:
            old = head(seen)
            proof = tiles.consistency_proof(old.size, before + 2, again.tile)
            verify_consistency(old.size, before + 2, old.root, head(log.note).root, proof)
        assert again.db.execute("SELECT count(*) FROM pending").fetchone()[0] == 0


def test_a_disk_error_while_publishing_is_repaired_by_the_next_step(tmp_path: Path) -> None:
    class Refusing(Published):
        refuse = True

        def write(self, note: bytes) -> None:
            if self.refuse:
                raise OSError(28, "No space left on device")
            super().write(note)

    files = Refusing(tmp_path / "published.checkpoint")
    with Store(tmp_path / "store.db") as store:
        log = start(store, files)
        put(store, "a")
        with pytest.raises(OSError, match="No space"):
            log.step()
        assert log.note is None  # no receipt can be made yet
        files.refuse = False
        assert log.step() == 0
        assert head(log.note).size == 1 and files.read() == log.note


def test_the_second_sequencer_fences_the_first(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as one, Store(tmp_path / "store.db") as two:
        first = start(one)
        put(one, "a")
        first.step()
        second = start(two)
        put(two, "b")
        with pytest.raises(Fenced):
            first.step()
        assert second.step() == 1
        put(one, "c")
        with pytest.raises(Fenced):
            first.step()
        assert second.step() == 1
        assert queries.log_status(two)["verified"]


def test_a_store_restored_from_an_old_copy_refuses_to_sign(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path) as store:
        log = start(store)
        put(store, "a", "b")
        log.step()
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, tmp_path / "old.db")
        put(store, "c")
        log.step()
    published = (tmp_path / "published.checkpoint").read_bytes()
    for leftover in tmp_path.glob("store.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "old.db", path)
    with Store(path) as store:
        with pytest.raises(RolledBack, match="restored from an old copy"):
            start(store)
        put(store, "other")
    assert (tmp_path / "published.checkpoint").read_bytes() == published


def test_the_same_size_with_another_root_refuses_to_sign(tmp_path: Path) -> None:
    for folder, name in (("one", "a"), ("two", "b")):
        (tmp_path / folder).mkdir()
        with Store(tmp_path / folder / "store.db") as store:
            log = start(store)
            put(store, name)
            log.step()
    shutil.copy(tmp_path / "one" / "published.checkpoint", tmp_path / "two" / "published.checkpoint")
    with Store(tmp_path / "two" / "store.db") as store, pytest.raises(RolledBack, match="another root"):
        start(store)


def test_a_missing_or_foreign_published_checkpoint_refuses_to_sign(tmp_path: Path) -> None:
    published = tmp_path / "published.checkpoint"
    with Store(tmp_path / "store.db") as store:
        log = start(store)
        for name in "ab":
            put(store, name)
            log.step()
    published.unlink()
    with Store(tmp_path / "store.db") as store, pytest.raises(RolledBack, match="put the file back"):
        start(store)
    published.write_bytes(b"rubbish")
    with Store(tmp_path / "store.db") as store, pytest.raises(LogError, match="not a checkpoint of this log"):
        start(store)


def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        start(store)
        with pytest.raises(ConfigError, match="log_key differs"):
            start(store, key=Ed25519PrivateKey.from_private_bytes(b"\x22" * 32))


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM entries WHERE log_index=2",
        "UPDATE tiles SET data=zeroblob(96)",
        "DELETE FROM checkpoints WHERE size=3",
        "UPDATE checkpoints SET root=zeroblob(32) WHERE size=3",
    ],
)
def test_a_damaged_store_refuses_to_sign(damage: str, tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        log = start(store)
        put(store, "a", "b", "c")
        log.step()
        store.db.execute(damage)
        with pytest.raises(LogDamaged):
            start(store)


def test_an_entry_changed_in_place_is_found_by_the_audit(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        log = start(store)
        put(store, "a", "b", "c")
        log.step()
        assert queries.log_status(store)["verified"]
        store.db.execute("UPDATE entries SET hash=zeroblob(32) WHERE log_index=1")
        status = queries.log_status(store)
        assert not status["verified"] and "root" in status["detail"]


def test_one_hash_is_pending_once(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        put(store, "a")
        with pytest.raises(StoreError, match="UNIQUE"):
            put(store, "a")


# --- TIME statements ------------------------------------------------------------------------------------


class Wall:
    """A clock that a test moves; in seconds."""

    def __init__(self, at_s: int = FLOOR_S + 1000) -> None:
        self.at_s = at_s

    def __call__(self) -> int:
        return self.at_s * 1000


def timed(store: Store, wall: Wall, **options: int) -> Sequencer:
    files = Published(store.path.with_name("published.checkpoint"))
    return Sequencer(store, ORIGIN, KEY, files, wall, **options)


def moments(store: Store) -> list[tuple[int, int]]:
    """(size, seconds) of every TIME statement, checked under the log's key and the committed root."""
    out = []
    for size, at_s, note in store.db.execute("SELECT size, at_s, note FROM times ORDER BY size").fetchall():
        one = verify_time(note, ORIGIN, public_bytes(KEY))
        assert (one.checkpoint.size, one.at_s) == (size, at_s)
        assert one.checkpoint.root == tiles.root(size, store.tile)
        out.append((size, at_s))
    return out


def test_times_are_signed_when_there_is_something_new_and_not_too_often(tmp_path: Path) -> None:
    wall = Wall()
    first = wall.at_s
    with Store(tmp_path / "store.db") as store:
        log = timed(store, wall)
        log.step()
        assert moments(store) == [], "an empty log has no time"
        put(store, "a", "b")
        log.step()
        assert moments(store) == [(2, first)]
        for _ in range(20):
            wall.at_s += 29
            put(store, f"{wall.at_s}")
            log.step()
        assert moments(store) == [(2, first)], "bounded: one in ten minutes"
        wall.at_s = first + TIME_EVERY_S
        log.step()
        assert moments(store) == [(2, first), (22, wall.at_s)], "nothing new came, but something waited"
        wall.at_s += 10 * TIME_EVERY_S
        log.step()
        assert len(moments(store)) == 2, "nothing new"


def test_a_time_is_rounded_up_and_never_goes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wall = Wall()
    first = wall.at_s
    with Store(tmp_path / "store.db") as store:
        log = Sequencer(store, ORIGIN, KEY, Published(tmp_path / "p"), lambda: wall() + 1)
        put(store, "a")
        log.step()
        assert moments(store) == [(1, first + 1)]
        for at_s in (first - 5, 0, 1_000_000_000):
            wall.at_s = at_s
            put(store, f"{at_s}")
            log.step()
            assert len(moments(store)) == 1
        assert caplog.text.count("Set the clock") == 1
        wall.at_s = first + TIME_EVERY_S
        log.step()
        assert [size for size, _ in moments(store)] == [1, 4]


def test_a_clock_before_this_software_signs_no_time_but_the_log_goes_on(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        log = timed(store, Wall(0))
        put(store, "a")
        assert log.step() == 1 and moments(store) == []
        replay = timed(store, Wall(1_300_000_000), floor_s=0)
        put(store, "b")
        replay.step()
        assert moments(store) == [(2, 1_300_000_000)], "a replay's collector has its own floor"


def test_times_are_known_again_after_a_restart_and_fenced(tmp_path: Path) -> None:
    wall = Wall()
    with Store(tmp_path / "store.db") as store, Store(tmp_path / "store.db") as other:
        old = timed(store, wall)
        put(store, "a")
        old.step()
        new = timed(other, wall)
        put(other, "b")
        new.step()
        assert len(moments(other)) == 1, "the interval is of the log, not of the process"
        wall.at_s += TIME_EVERY_S
        with pytest.raises(Fenced):
            old.step()
        new.step()
        assert len(moments(other)) == 2


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_a_time_is_stored_costs_nothing(tmp_path: Path, after: bool) -> None:
    wall = Wall()
    with FailingStore(tmp_path / "store.db") as store:
        log = timed(store, wall)
        put(store, "a")
        store.die_at(2, after)
        with pytest.raises(Crash):
            log.step()
    with Store(tmp_path / "store.db") as store:
        again = timed(store, wall)
        again.step()
        assert moments(store) == [(1, wall.at_s)] and head(again.note).size == 1
