"""Power cuts: the outbox's own statements on a disk that forgets what was not synced.

A VFS of apsw logs every write, truncate, sync and delete, and a mark after each commit of the store. At a
random cut, what precedes a file's last sync is durable; later writes survive all, none or at random, some of
them torn at 512 bytes. The files are written out as they would be found, opened with the store itself, and
everything that had been committed must be there, with a chain that closes.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from edge_kit import EPOCH_NS, SIGNER, draft, opened

from edge.chain import check
from edge.intake import Intake
from edge.runtime import store as store_module
from edge.runtime.store import Store
from edge.segment import Sealed
from firmware_bridge.wire.stamp import NS

apsw = pytest.importorskip("apsw", reason="apsw is a development dependency")

COMMITS = 40
CUTS = 60
SECTOR = 512


class Log:
    """What was asked of the disk, in order: (file, what, offset, data) and marks."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int, bytes]] = []

    def mark(self, number: int) -> None:
        self.calls.append(("", "mark", number, b""))


def make_vfs(log: Log, name: str) -> Any:
    class File(apsw.VFSFile):  # type: ignore[misc, name-defined]
        def __init__(self, inherit: str, filename: Any, flags: list[int]) -> None:
            path = filename.filename() if hasattr(filename, "filename") else filename
            self._name = Path(str(path)).name
            super().__init__(inherit, filename, flags)

        def xWrite(self, data: bytes, offset: int) -> None:
            log.calls.append((self._name, "write", offset, bytes(data)))
            super().xWrite(data, offset)

        def xTruncate(self, size: int) -> None:
            log.calls.append((self._name, "truncate", size, b""))
            super().xTruncate(size)

        def xSync(self, flags: int) -> None:
            log.calls.append((self._name, "sync", 0, b""))
            super().xSync(flags)

    class Vfs(apsw.VFS):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(name, "")

        def xOpen(self, filename: Any, flags: list[int]) -> File:
            return File("", filename, flags)

        def xDelete(self, filename: str, sync: bool) -> None:
            log.calls.append((Path(filename).name, "delete", 0, b""))
            super().xDelete(filename, sync)

    return Vfs()


class Connection:
    """As much of sqlite3.Connection as the store uses, over apsw and our VFS."""

    def __init__(self, path: Path, vfs: str, synchronous: str) -> None:
        self._db = apsw.Connection(str(path), vfs=vfs)
        self._synchronous = synchronous

    def execute(self, sql: str, args: Any = ()) -> Any:
        if not sql.strip():
            return self._db.cursor()
        sql = sql.replace("synchronous=FULL", f"synchronous={self._synchronous}")
        cursor = self._db.cursor().execute(sql, args)
        return Cursor(cursor, self._db)

    def executemany(self, sql: str, rows: Any) -> None:
        self._db.cursor().executemany(sql, list(rows))

    @property
    def in_transaction(self) -> bool:
        return bool(self._db.in_transaction)

    @property
    def total_changes(self) -> int:
        return int(self._db.total_changes())

    def close(self) -> None:
        self._db.close()


class Cursor:
    def __init__(self, cursor: Any, db: Any) -> None:
        self._cursor = cursor
        self.rowcount = db.changes()

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> Any:
        return self._cursor.fetchall()

    def __iter__(self) -> Any:
        return iter(self._cursor.fetchall())


def after_cut(calls: list[tuple[str, str, int, bytes]], chance: random.Random) -> dict[str, bytearray]:
    """The files as they would be found: synced calls for certain, the others as chance has it."""
    last_sync = {name: n for n, (name, what, _, _) in enumerate(calls) if what == "sync"}
    any_sync = max(last_sync.values(), default=-1)
    mode = chance.choice(["all", "none", "some"])
    files: dict[str, bytearray] = {}
    for n, (name, what, offset, data) in enumerate(calls):
        if not name or what == "sync":
            continue
        # A deletion is durable when any sync follows it: the journal of the file system keeps order.
        if n > (any_sync if what == "delete" else last_sync.get(name, -1)):
            if mode == "none" or (mode == "some" and chance.random() < 0.5):
                continue
            if what == "write" and mode == "some" and chance.random() < 0.3:
                data = data[: chance.randrange(0, len(data) // SECTOR + 1) * SECTOR]
        file = files.setdefault(name, bytearray())
        if what == "write" and data:
            file.extend(bytes(max(offset + len(data) - len(file), 0)))
            file[offset : offset + len(data)] = data
        elif what == "truncate":
            del file[offset:]
        elif what == "delete":
            files.pop(name, None)
    return files


def work(
    store: Store, log: Log, chance: random.Random
) -> tuple[dict[int, tuple[int, set[bytes]]], list[Sealed]]:
    """Commits, alarms, receipts and thinning; after each, what must be there: next seq and segments held."""
    run = bytes(range(16))
    store.begin_run(run, reason="first start", lost=(), wall_ns=EPOCH_NS)
    intake = Intake(run)
    promised: dict[int, tuple[int, set[bytes]]] = {}
    held: set[bytes] = set()
    ever: list[Sealed] = []
    for number in range(COMMITS):
        for _ in range(chance.randint(1, 40)):
            intake.add(draft(number, urgent=chance.random() < 0.05))
        done = store.commit(intake.take(), now_ns=number * NS, wall_ns=EPOCH_NS)
        intake.done()
        held |= {row.hash for row in done.sealed}
        ever += [row.sealed for row in done.sealed]
        if chance.random() < 0.2 and held:
            gone = sorted(held)[:2]
            store.forget([(s.segment.run, s.segment.number, s.hash) for s in ever if s.hash in gone])
            held -= set(gone)
        log.mark(number)
        promised[number] = (store.next_seq, set(held))
    return promised, ever


def cut(seed: int, folder: Path, patch: pytest.MonkeyPatch, synchronous: str) -> int:
    """Work, cut the power at CUTS moments, open what is found; how many states had lost a commit."""
    chance, log = random.Random(seed), Log()
    vfs = make_vfs(log, f"cut-{synchronous}-{seed}")

    def connect(path: Path, **_: object) -> Connection:
        return Connection(path, f"cut-{synchronous}-{seed}", synchronous)

    with patch.context() as patched:
        patched.setattr(store_module.sqlite3, "connect", connect)
        store = Store(folder / "outbox.db", SIGNER, seal_interval_ns=60 * NS)
        promised, ever = work(store, log, chance)
    first_mark = next(n for n, call in enumerate(log.calls) if call[1] == "mark")
    lost = 0
    for number in range(CUTS):
        moment = chance.randrange(first_mark + 1, len(log.calls))
        found_at = folder / f"cut-{number}"
        found_at.mkdir()
        for name, data in after_cut(log.calls[:moment], chance).items():
            if not name.endswith("-shm"):
                (found_at / name).write_bytes(data)
        committed = max(n for _, what, n, _ in log.calls[:moment] if what == "mark")
        lost += not _kept(found_at / "outbox.db", *promised[committed], ever)
    store.close()
    del vfs
    return lost


def _kept(path: Path, next_seq: int, held: set[bytes], ever: list[Sealed]) -> bool:
    """Whether everything promised is in the file; a receipt after the promise may have taken some."""
    found = Store(path, SIGNER, seal_interval_ns=60 * NS)
    here = [opened(bytes(body)) for (body,) in found._db.execute("SELECT body FROM segments").fetchall()]
    unsealed = [item.event.seq for item in found.unsealed]
    kept = found.next_seq >= next_seq and (not unsealed or unsealed[-1] == found.next_seq - 1)
    found.close()
    missing = held - {one.hash for one in here}
    if len(missing) > 2:  # `work` forgets two at a time, and one receipt may be under way at the cut
        return False
    elsewhere = [one for one in ever if one.hash in missing or one.hash not in held]
    report = check([*elsewhere, *here])
    return kept and not report.forks and not report.breaks


@pytest.mark.parametrize("seed", [0, 1])
def test_a_power_cut_loses_nothing_that_was_committed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cut(seed, tmp_path, monkeypatch, "FULL") == 0


def test_the_harness_sees_what_a_weaker_setting_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cut(0, tmp_path, monkeypatch, "NORMAL") > 0
