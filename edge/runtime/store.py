"""The outbox: one SQLite file that holds what is accepted until the collector's receipt lets it go.

Invariants
- One writer, the edge; everyone else opens it read-only. Every change is one BEGIN IMMEDIATE transaction
  with synchronous=FULL in WAL: when a method returns, what it did survives a power cut; when it raises,
  nothing happened.
- An accepted event lies either in `events` (unsealed, of the present run) or inside exactly one row of
  `segments`; the move is one transaction, together with the state of the chain in `meta`.
- A segment leaves by `forget` (a verified receipt) or by `drop` (thinning, which leaves a tombstone).
- `tombstones` holds what must stand in the next segment that is sealed.

Layout: meta(key, value), events(seq, body), tombstones(id, body), and
segments(id, lane 0 alarm / 1 telemetry, run, number, created_ns, hash, body, previous, events,
tombstones, from_mono_ns, to_mono_ns).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge import event as ev
from edge import segment as seg
from edge.errors import FormatError, StoreError, StoreFull, StoreReadOnly
from edge.intake import Batch
from edge.sealer import (
    LANE_TELEMETRY,
    Accepted,
    ChainState,
    Row,
    Signer,
    decode_tombstone,
    encode_tombstone,
    plan,
)
from edge.segment import Tombstone
from edge.thinning import Candidate, merge, tombstones
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor

SCHEMA: Final = 1
PAGE_BYTES: Final = 4096
BUSY_TIMEOUT_S: Final = 5.0
"""A reader's checkpoint or a tool holds the file for milliseconds."""
AUTOCHECKPOINT_PAGES: Final = 256
"""1 MB of WAL: small flash, and little is read again at the next start."""
CHECK_BYTES: Final = 256 << 20
"""Files up to this size are checked whole at each start (about 1 s for 256 MB)."""
MAX_CANDIDATES: Final = 8192
"""Segments looked at in one thinning: bounds its memory to about 4 MB."""
NO_ROOM_BYTES: Final = 64 * 1024
"""Less free than this and an I/O error is taken for want of space: the WAL's index grows by 32 KiB."""
_OF_THE_DISK: Final = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
)  # fmt: skip
_TABLES: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events(seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE tombstones(id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE segments(
  id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, run BLOB NOT NULL, number INTEGER NOT NULL,
  created_ns INTEGER NOT NULL, hash BLOB NOT NULL, body BLOB NOT NULL, previous BLOB NOT NULL,
  events INTEGER NOT NULL, tombstones INTEGER NOT NULL, from_mono_ns INTEGER NOT NULL,
  to_mono_ns INTEGER NOT NULL, UNIQUE(run, number));
CREATE INDEX by_lane ON segments(lane, id);
"""


class StoreDamaged(StoreError):
    """The file is not a database, or its structure is broken: it must be set aside."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How full the outbox is."""

    segments: int
    bytes: int
    """Live bytes: pages in use, not the size of the file."""
    unsealed: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did."""

    events: tuple[Accepted, ...]
    sealed: tuple[Row, ...]


def translate(error: sqlite3.Error, folder: Path) -> StoreError:
    """The error of ours that says who must act on `error`.

    SQLite says "disk I/O error" for a full disk, a card that turned read-only and a broken one alike: so the
    file system of the state folder `folder` is asked what it is.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = f"outbox: {error}"
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreDamaged(text)
    if code not in _OF_THE_DISK:
        return StoreError(text)
    try:
        disk = os.statvfs(folder)
    except OSError as cause:
        return StoreError(f"{text}: the state folder cannot be reached ({cause.strerror}); check its mount")
    if disk.f_flag & os.ST_RDONLY:
        return StoreReadOnly(
            f"{text}: the state folder cannot be written, it is mounted read-only, as a worn card is after"
            " an error: see the kernel log, replace the card or mount it writable; nothing needs a restart"
        )
    if code == sqlite3.SQLITE_READONLY:
        return StoreReadOnly(f"{text}: the state folder cannot be written; check its owner and mount")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{text}: check owner and mode of the state folder and what is in it")
    free = disk.f_bavail * disk.f_frsize
    if code == sqlite3.SQLITE_FULL or free < NO_ROOM_BYTES:
        return StoreFull(f"{text}: no space in the state folder; free some, nothing needs a restart")
    return StoreError(
        f"{text}: the state folder cannot be written or read although {free} bytes are free; check the card"
        " in the kernel log, and the quota"
    )


class Store:
    """An open outbox, used by one thread at a time. Mirrors what is unsealed and where the chain stands."""

    def __init__(self, path: Path, signer: Signer, *, seal_interval_ns: int) -> None:
        """Open or create `path`.

        Raises StoreDamaged when the file must be set aside, StoreReadOnly, StoreFull or StoreError when it
        cannot be used now.
        """
        self._folder = path.parent
        self.signer = signer
        self.seal_interval_ns = seal_interval_ns
        self.state: ChainState | None = None
        """None until the first run of this store has begun."""
        self.next_seq = 0
        self.last_mono_ns = 0
        self.clean = False
        """The last process sealed everything and said so."""
        self.unsealed: list[Accepted] = []
        self.waiting: list[Tombstone] = []
        try:
            self._db = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise translate(error, self._folder) from error
        try:
            self._prepare(path)
            self._load()
        except sqlite3.Error as error:
            self._db.close()
            raise translate(error, self._folder) from error
        except (FormatError, WireError) as error:
            self._db.close()
            raise StoreDamaged(f"outbox: {error}") from error
        except OSError as error:
            self._db.close()
            raise StoreError(f"outbox: {error}") from error
        except StoreError:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreReadOnly(f"outbox: journal mode is {mode}, not wal; is the state folder writable?")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit={4 * AUTOCHECKPOINT_PAGES * PAGE_BYTES}")
        if path.stat().st_size <= CHECK_BYTES:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise StoreDamaged(f"outbox: {verdict}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise StoreError(
                f"outbox has schema {version}, this software knows {SCHEMA}: install the newer one"
            )
        with self._transaction():
            if version == 0:
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={SCHEMA}")
            else:
                # Proves at the start, not at the first event, that the file can be written.
                db.execute("INSERT OR REPLACE INTO meta VALUES('opened', x'')")

    def _load(self) -> None:
        row = self._db.execute("SELECT value FROM meta WHERE key='state'").fetchone()
        if row is not None:
            match cbor.decode(row[0]):
                case [chain, int() as next_seq, int() as mono, bool() as clean]:
                    self.state = ChainState.of(chain)
                    self.next_seq, self.last_mono_ns, self.clean = next_seq, mono, clean
                case _:
                    raise FormatError("the state of the chain is not readable")
        for (body,) in self._db.execute("SELECT body FROM events ORDER BY seq").fetchall():
            self.unsealed.append(Accepted(ev.decode(body), body, urgent=False))
        for (body,) in self._db.execute("SELECT body FROM tombstones ORDER BY id").fetchall():
            self.waiting.append(decode_tombstone(body))

    def close(self) -> None:
        """Close the file; what is committed stays."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise translate(error, self._folder) from error

    def adopt(self, other: Store) -> None:
        """Take over, before `begin_run`, what `other` had in memory when its file was found damaged."""
        self.state, self.next_seq, self.last_mono_ns = other.state, other.next_seq, other.last_mono_ns
        self.unsealed, self.waiting = list(other.unsealed), list(other.waiting)

    def begin_run(
        self, run: bytes, *, reason: str, lost: Sequence[Tombstone], wall_ns: int
    ) -> tuple[Row, ...]:
        """Seal what the last run left unsealed, under that run, and begin `run`.

        `reason` stands in segment 0 where this store knows of no run before; `lost` are tombstones of
        what the last process had read and not accepted. Durable on return.
        """
        state, rows = self.state, list[Row]()
        if state is not None and self.unsealed:
            groups, _ = plan(self.unsealed, (), now_ns=0, seal_interval_ns=0, flush=True)
            state, rows, left = self.signer.seal(state, groups, self.waiting)
        else:
            left = list(self.waiting)
        left = merge([*left, *lost])
        fresh = ChainState(run, 0, reason) if state is None else state.then(run)
        with self._transaction() as db:
            self._insert_rows(db, rows, wall_ns)
            db.execute("DELETE FROM events")
            self._replace_tombstones(db, left)
            self._save_state(db, fresh, 0, 0, clean=False)
        self.state, self.next_seq, self.last_mono_ns, self.clean = fresh, 0, 0, False
        self.unsealed, self.waiting = [], left
        return tuple(rows)

    def commit(
        self, batch: Batch, *, now_ns: int, wall_ns: int, flush: bool = False, clean: bool = False
    ) -> Committed:
        """Accept `batch` and seal what is due. Durable on return; on StoreError nothing was accepted.

        `now_ns` is monotonic, `wall_ns` the node's wall time or 0 where it is not known.
        """
        if self.state is None:
            raise StoreError("no run has begun")
        groups, rest = plan(
            self.unsealed, batch.items, now_ns=now_ns, seal_interval_ns=self.seal_interval_ns, flush=flush
        )
        waiting = merge([*self.waiting, *batch.lost])
        state, rows, left = self.signer.seal(self.state, groups, waiting)
        next_seq = max(
            [
                self.next_seq,
                *(a.event.seq + 1 for a in batch.items[-1:]),
                *(t.last + 1 for t in batch.lost if t.run == state.run),
            ]
        )
        mono = batch.items[-1].event.stamp.mono_ns if batch.items else self.last_mono_ns
        sealed_below = rest[0].event.seq if rest else next_seq
        with self._transaction() as db:
            self._insert_rows(db, rows, wall_ns)
            if rows:
                db.execute("DELETE FROM events WHERE seq < ?", (sealed_below,))
            known = {item.event.seq for item in self.unsealed}
            db.executemany(
                "INSERT INTO events VALUES(?, ?)",
                [(item.event.seq, item.data) for item in rest if item.event.seq not in known],
            )
            if left != self.waiting:
                self._replace_tombstones(db, left)
            self._save_state(db, state, next_seq, mono, clean=clean)
        self.state, self.next_seq, self.last_mono_ns, self.clean = state, next_seq, mono, clean
        self.unsealed, self.waiting = rest, left
        return Committed(batch.items, tuple(rows))

    def forget(self, entries: Sequence[tuple[bytes, int, bytes]]) -> int:
        """Delete segments (run, number, hash) that a verified receipt names; how many rows went."""
        with self._transaction() as db:
            gone = 0
            for entry in entries:
                gone += db.execute("DELETE FROM segments WHERE run=? AND number=? AND hash=?", entry).rowcount
        return gone

    def hash_of(self, run: bytes, number: int) -> bytes | None:
        """Hash of that segment, None where it is not in the outbox."""
        try:
            row = self._db.execute(
                "SELECT hash FROM segments WHERE run=? AND number=?", (run, number)
            ).fetchone()
        except sqlite3.Error as error:
            raise translate(error, self._folder) from error
        return None if row is None else bytes(row[0])

    def candidates(self) -> list[Candidate]:
        """The telemetry segments that thinning may drop, oldest first."""
        try:
            rows = self._db.execute(
                "SELECT id, run, number, hash, previous, events, from_mono_ns, to_mono_ns,"
                " length(body) + 250,"
                " created_ns FROM segments WHERE lane=? ORDER BY id LIMIT ?",
                (LANE_TELEMETRY, MAX_CANDIDATES),
            ).fetchall()
        except sqlite3.Error as error:
            raise translate(error, self._folder) from error
        return [Candidate(*row) for row in rows]

    def drop(self, dropped: Sequence[Candidate]) -> int:
        """Delete `dropped`, leave tombstones (those they carried too) for the next seal; events gone."""
        carried: list[Tombstone] = []
        with self._transaction() as db:
            for c in dropped:
                row = db.execute("SELECT body, tombstones FROM segments WHERE id=?", (c.id,)).fetchone()
                if row is not None and row[1]:
                    carried += seg.peek(row[0]).segment.tombstones
                db.execute("DELETE FROM segments WHERE id=?", (c.id,))
            left = merge([*self.waiting, *carried, *tombstones(dropped)])
            self._replace_tombstones(db, left)
        self.waiting = left
        return sum(c.events for c in dropped)

    def figures(self) -> Figures:
        """How full it is now."""
        try:
            (count,) = self._db.execute("SELECT count(*) FROM segments").fetchone()
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        except sqlite3.Error as error:
            raise translate(error, self._folder) from error
        return Figures(count, (pages - free) * PAGE_BYTES, len(self.unsealed))

    def restore(self, rows: Sequence[tuple[object, ...]]) -> int:
        """Insert segments that were saved from a damaged file (columns of `segments` without id)."""
        marks = ",".join("?" * 11)
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO segments({_COLUMNS}) VALUES({marks})", rows)
            return db.total_changes - before

    @staticmethod
    def _insert_rows(db: sqlite3.Connection, rows: Sequence[Row], wall_ns: int) -> None:
        for row in rows:
            content = row.sealed.segment
            db.execute(
                f"INSERT INTO segments({_COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
                (
                    row.lane, content.run, content.number, wall_ns, row.hash, row.sealed.data, row.previous,
                    len(content.events), len(content.tombstones), *row.mono_range_ns,
                ),
            )  # fmt: skip

    @staticmethod
    def _replace_tombstones(db: sqlite3.Connection, items: Sequence[Tombstone]) -> None:
        db.execute("DELETE FROM tombstones")
        db.executemany("INSERT INTO tombstones(body) VALUES(?)", [(encode_tombstone(t),) for t in items])

    @staticmethod
    def _save_state(
        db: sqlite3.Connection, state: ChainState, next_seq: int, mono_ns: int, *, clean: bool
    ) -> None:
        value = cbor.encode([state.value(), next_seq, mono_ns, clean])
        db.execute("INSERT OR REPLACE INTO meta VALUES('state', ?)", (value,))


_COLUMNS: Final = (
    "lane, run, number, created_ns, hash, body, previous, events, tombstones, from_mono_ns, to_mono_ns"
)


def salvage(path: Path) -> list[tuple[object, ...]]:
    """The segments that can still be read from a damaged outbox, each held against its own hash."""
    found: dict[tuple[bytes, int], tuple[object, ...]] = {}
    for order in ("ASC", "DESC"):  # from both ends: a bad page stops the walk
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        except sqlite3.Error:
            return []
        try:
            for row in db.execute(f"SELECT {_COLUMNS} FROM segments ORDER BY id {order}"):
                _, run, number, _, digest, body = row[:6]
                if isinstance(body, bytes) and seg.segment_hash(body) == digest:
                    found.setdefault((bytes(run), int(number)), tuple(row))
        except (sqlite3.Error, TypeError, ValueError):
            continue
        finally:
            db.close()
    return list(found.values())
