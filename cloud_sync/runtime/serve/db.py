"""Connections to the two databases: store.db of the collector, and serve.db of the server's own.

Requests run in worker threads, and one request may pass through several of them; so connections are lent from
a pool, to one request at a time, and every read sees one snapshot. serve.db holds accounts, sessions, tokens,
counted login attempts, rules, webhooks and deliveries: WAL, synchronous FULL; losing it loses no evidence.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from cloud_sync.errors import StoreBusy, StoreError, StoreReadOnly
from cloud_sync.runtime.store import BUSY_TIMEOUT_S, Store, may_try_again

SCHEMA_VERSION: Final = 1
KEPT: Final = 16
"""Connections that stay open; more are opened at need and closed again."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts(
  id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, name TEXT NOT NULL, name_key TEXT NOT NULL,
  role TEXT NOT NULL, manages INTEGER NOT NULL DEFAULT 0, branches TEXT NOT NULL DEFAULT '[]',
  language TEXT NOT NULL DEFAULT 'en', email TEXT, password TEXT, disabled INTEGER NOT NULL DEFAULT 0,
  issuer TEXT, subject TEXT, made_ms INTEGER NOT NULL, seen_ms INTEGER,
  UNIQUE(tenant, name_key), UNIQUE(issuer, subject));
CREATE INDEX IF NOT EXISTS accounts_name ON accounts(name_key, id);
CREATE TABLE IF NOT EXISTS links(
  hash BLOB PRIMARY KEY, tenant TEXT NOT NULL, account INTEGER, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions(
  hash BLOB PRIMARY KEY, tenant TEXT NOT NULL, account INTEGER NOT NULL, made_ms INTEGER NOT NULL,
  seen_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_account ON sessions(account);
CREATE TABLE IF NOT EXISTS tokens(
  id TEXT PRIMARY KEY, tenant TEXT NOT NULL, account INTEGER NOT NULL, name TEXT NOT NULL,
  scopes TEXT NOT NULL, hash BLOB NOT NULL, made_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
  used_ms INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tokens_account ON tokens(tenant, account);
CREATE TABLE IF NOT EXISTS attempts(
  key BLOB PRIMARY KEY, failures INTEGER NOT NULL, until_ms INTEGER NOT NULL,
  last_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempts_last ON attempts(last_ms);
CREATE TABLE IF NOT EXISTS oidc_logins(
  state BLOB PRIMARY KEY, nonce TEXT NOT NULL, verifier TEXT NOT NULL,
  made_ms INTEGER NOT NULL) WITHOUT ROWID;
"""


class _Closes(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closes)


class Pool(Generic[T]):
    """Lends what `make` makes to one user at a time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[T]:
        """One of them; one that raised is not used again."""
        with self._lock:
            one = self._free.pop() if self._free else None
        if one is None:
            one = self._make()
        try:
            yield one
        except BaseException:
            one.close()
            raise
        with self._lock:
            if not self._closed and len(self._free) < KEPT:
                self._free.append(one)
                return
        one.close()

    def close(self) -> None:
        """Close what is not lent; the rest closes when it comes back."""
        with self._lock:
            free, self._free, self._closed = self._free, [], True
        for one in free:
            one.close()


class StorePool:
    """The collector's store: snapshots to read, and stores for short write transactions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._readers: Pool[sqlite3.Connection] = Pool(self._open_reader)
        self._writers: Pool[Store] = Pool(lambda: Store(path, create=False, any_thread=True))

    def _open_reader(self) -> sqlite3.Connection:
        return Store(self.path, read_only=True, any_thread=True).db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection on one snapshot. Raises StoreError, NotFound."""
        with self._readers.lend() as db, _translated(f"store {self.path}"):
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """A store for write transactions. Raises StoreError, NotFound."""
        with self._writers.lend() as store:
            yield store

    def close(self) -> None:
        """Close what is open."""
        self._readers.close()
        self._writers.close()


class ServeDb:
    """serve.db."""

    def __init__(self, path: Path) -> None:
        """Open, creating it where it is missing, readable by its owner alone. Raises StoreError."""
        self.path = path
        self._pool: Pool[sqlite3.Connection] = Pool(self._open)
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreReadOnly(f"store {path}: {error}; check owner, mode and mount") from error
        with _translated(f"store {path}"), self._pool.lend() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            db.execute("INSERT OR IGNORE INTO meta VALUES('schema', ?)", (str(SCHEMA_VERSION).encode(),))
            row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if bytes(row[0]) != str(SCHEMA_VERSION).encode():
            self.close()
            raise StoreError(
                f"store {path} has schema {bytes(row[0])!r}; this software reads {SCHEMA_VERSION}"
            )

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA secure_delete=ON")
        return db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reads, each in its own snapshot. Raises StoreError."""
        with self._pool.lend() as db, _translated(f"store {self.path}"):
            yield db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, committed when the block ends, undone when it raises. Raises StoreError."""
        with self._pool.lend() as db, _translated(f"store {self.path}"):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise StoreReadOnly(f"{what}: {error}; check owner, mode and mount") from error
        if may_try_again(error):
            raise StoreBusy(f"{what}: {error}; free space or end the other writer") from error
        raise StoreError(f"{what}: {error}") from error
