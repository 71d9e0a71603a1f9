"""The collector's SQLite store: segments, their erasable bodies, and the log.

Invariants
- A row of `segments` or `statements`, its row of `bodies` and its row of `pending` or `entries` are written
  in one transaction. What was committed is in the log, or will be by the sequencer's next step.
- `entries`, `tiles` and `checkpoints` only grow. `entries.hash` is the log's entry; the leaf is its hash.
- `bodies.data` may become NULL (erasure). Nothing else of a logged segment ever changes.
- Every table that holds what a device or an organisation said has a `tenant`. `tiles`, `checkpoints` and
  `times` belong to the log (`meta.origin`), which several tenants may share: they hold hashes alone.

Durable on return: WAL with synchronous=FULL; writers use BEGIN IMMEDIATE. A connection belongs to one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from cloud_sync.collector import month
from cloud_sync.errors import ConfigError, NotFound, StoreBusy, StoreError, StoreReadOnly
from cloud_sync.statement import peek_statement
from edge.errors import EdgeError
from firmware_bridge.errors import WireError

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 5.0
"""A reader's checkpoint or an erasure holds the lock for less; longer means somebody forgot a transaction."""
KIND_SEGMENT: Final = 0
KIND_STATEMENT: Final = 1

_TRY_AGAIN: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
    }
)  # fmt: skip

_NOT_WRITABLE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""Of these, what space and patience do not heal. A running collector still tries again: mounts come back."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS devices(
  tenant TEXT NOT NULL, device TEXT NOT NULL, kid BLOB NOT NULL, certificate BLOB NOT NULL,
  first_ms INTEGER NOT NULL, PRIMARY KEY(tenant, device, kid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, run BLOB NOT NULL,
  number INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, previous BLOB, kid BLOB NOT NULL,
  received_ms INTEGER NOT NULL, first_seq INTEGER, last_seq INTEGER, clock INTEGER NOT NULL,
  fork INTEGER NOT NULL DEFAULT 0, log_index INTEGER,
  UNIQUE(tenant, device, run, number, hash));
CREATE INDEX IF NOT EXISTS segments_previous ON segments(tenant, device, previous) WHERE previous IS NOT NULL;
CREATE TABLE IF NOT EXISTS bodies(
  id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, device TEXT NOT NULL,
  month TEXT NOT NULL, month_last TEXT NOT NULL, size INTEGER NOT NULL, data BLOB,
  erased_ms INTEGER, reason TEXT);
CREATE INDEX IF NOT EXISTS bodies_month ON bodies(tenant, device, month_last);
CREATE TABLE IF NOT EXISTS statements(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, type TEXT NOT NULL,
  wall_ms INTEGER NOT NULL, log_index INTEGER);
CREATE TABLE IF NOT EXISTS pending(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, kind INTEGER NOT NULL,
  hash BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS entries(
  log_index INTEGER PRIMARY KEY, tenant TEXT NOT NULL, kind INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tiles(
  level INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY(level, number));
CREATE TABLE IF NOT EXISTS checkpoints(
  size INTEGER PRIMARY KEY, root BLOB NOT NULL, made_ms INTEGER NOT NULL, note BLOB);
CREATE TABLE IF NOT EXISTS times(size INTEGER PRIMARY KEY, at_s INTEGER NOT NULL, note BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS receipts(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, size INTEGER NOT NULL,
  items INTEGER NOT NULL, made_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS forks(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, hash BLOB NOT NULL,
  other_hash BLOB NOT NULL, seen_ms INTEGER NOT NULL, UNIQUE(tenant, device, hash, other_hash));
CREATE TABLE IF NOT EXISTS alarms(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL,
  raised_ms INTEGER NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS quarantine(
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, reason TEXT NOT NULL,
  detail TEXT NOT NULL, topic TEXT NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL, data BLOB,
  first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, seen INTEGER NOT NULL DEFAULT 1,
  UNIQUE(tenant, device, hash, reason));
"""


class Store:
    """One open store. `db` is in autocommit; every write goes through `transaction`."""

    def __init__(
        self, path: Path, *, read_only: bool = False, create: bool = True, any_thread: bool = False
    ) -> None:
        """Open, creating it unless `read_only` or not `create`. With `any_thread` the caller sees to it that
        one thread uses it at a time. Raises StoreError (StoreReadOnly where owner, mode or mount are in the
        way); NotFound where there is none and none is created."""
        if (read_only or not create) and not path.is_file():
            raise NotFound(f"there is no store {path}: has the collector run with this folder?")
        self.path = path
        try:
            self.db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc' if create else 'rw'}",
                uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=not any_thread,
            )  # fmt: skip
            if not read_only:
                self._prepare()
            version = self.meta("schema")
        except sqlite3.Error as error:
            raise _translated(error, f"cannot open the store {path}") from error
        if version != str(SCHEMA_VERSION).encode():
            raise StoreError(f"store {path} has schema {version!r}; this software reads {SCHEMA_VERSION}")

    def _prepare(self) -> None:
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("PRAGMA secure_delete=ON")  # erased means: not in the file's free pages either
        self.db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        self.db.execute("INSERT OR IGNORE INTO meta VALUES('schema', ?)", (str(SCHEMA_VERSION).encode(),))

    def meta(self, key: str) -> bytes | None:
        """A value of `meta`."""
        row = self.db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def identify(self, values: dict[str, bytes]) -> None:
        """Write identities at the first call; afterwards they must be the same.

        Raises ConfigError when the store belongs to another log, StoreBusy when it cannot be written.
        """
        with self.transaction():
            for key, value in values.items():
                stored = self.meta(key)
                if stored is None:
                    self.db.execute("INSERT INTO meta VALUES(?, ?)", (key, value))
                elif stored != value:
                    raise ConfigError(
                        f"store {self.path} belongs to another log ({key} differs): "
                        "give the collector its own folder, or the keys that made this store"
                    )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, committed when the block ends and undone when it raises.

        Raises StoreBusy when the store is full or locked, StoreReadOnly when it cannot be written (nothing
        was committed), StoreError for anything else that SQLite says.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.commit()
        except sqlite3.Error as error:
            self._rollback()
            raise _translated(error, f"store {self.path}") from error
        except BaseException:
            self._rollback()
            raise

    def commit(self) -> None:
        """End a transaction; a seam for tests that fail here, before or after it took effect."""
        self.db.execute("COMMIT")

    def _rollback(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def tile(self, level: int, number: int) -> bytes:
        """The bytes of a tile of the log, b"" where there is none."""
        row = self.db.execute("SELECT data FROM tiles WHERE level=? AND number=?", (level, number)).fetchone()
        return b"" if row is None else bytes(row[0])

    def has_table(self, name: str) -> bool:
        """Whether this store has the table `name`: one of older software, opened to read, may not."""
        row = self.db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", (name,)).fetchone()
        return row is not None

    def size(self) -> int:
        """Entries in the log."""
        row = self.db.execute("SELECT max(log_index) FROM entries").fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def latest_note(self) -> bytes | None:
        """The newest signed checkpoint, None in an empty log."""
        row = self.db.execute(
            "SELECT note FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC LIMIT 1"
        ).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def log_statement(db: sqlite3.Connection, tenant: str, data: bytes) -> None:
    """Store the signed statement `data` of `tenant` and queue it for the log.

    Call it inside a transaction; twice is once. Raises StoreError when the bytes are no statement of that
    tenant: what this process signed itself a moment ago can only be one by mistake.
    """
    try:
        made = peek_statement(data)
    except (EdgeError, WireError) as error:
        raise StoreError(f"not a statement: {error}") from error
    if made.tenant != tenant:
        raise StoreError(f"a statement of {made.tenant} was handed in for {tenant}")
    digest = made.hash
    added = db.execute(
        "INSERT OR IGNORE INTO statements(tenant, hash, type, wall_ms) VALUES(?,?,?,?)",
        (tenant, digest, made.type, made.wall_ms),
    )
    if added.rowcount:
        when = month(made.wall_ms)
        db.execute(
            "INSERT INTO bodies(hash, tenant, device, month, month_last, size, data) VALUES(?,?,'',?,?,?,?)",
            (digest, tenant, when, when, len(data), data),
        )
        db.execute("INSERT INTO pending(tenant, kind, hash) VALUES(?,?,?)", (tenant, KIND_STATEMENT, digest))


def may_try_again(error: sqlite3.Error) -> bool:
    """Whether the same may succeed later: the store is full, locked or cannot be written right now."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRY_AGAIN


def _translated(error: sqlite3.Error, what: str) -> StoreError:
    if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NOT_WRITABLE:
        return StoreReadOnly(f"{what}: {error}; it cannot be opened or written: check owner, mode and mount")
    if may_try_again(error):
        return StoreBusy(f"{what}: {error}; free space or end the other writer")
    return StoreError(f"{what}: {error}")
