"""The outbox as the uplink sees it: read-only, in statements that end at once.

A read transaction left open would keep the edge's WAL from being checked in until the disk is full, so every
query here is read to its end before it returns.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from edge.errors import StoreError
from edge.uplink import Row

_TIMEOUT_S: Final = 1.0
"""Readers of a WAL database wait only while it is being recovered."""
_COLUMNS: Final = "id, lane, run, number, hash, length(body)"
_QUERY: Final = " UNION ALL ".join(
    f"SELECT * FROM (SELECT {_COLUMNS} FROM segments WHERE lane = {lane} ORDER BY id LIMIT :limit)"
    for lane in (0, 1)
)


class OutboxReader:
    """Opens the file when it is there, and again when the edge has put another in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._version = -1

    def changed(self) -> bool:
        """Whether anything was committed since the last `rows`. Raises StoreError: cannot be read now."""
        try:
            return self._open() != self._version
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"outbox {self._path}: {error}: is `holdfast edge` running?") from error

    def rows(self, limit: int) -> list[Row]:
        """The first `limit` segments of each lane. Raises StoreError."""
        try:
            self._version = self._open()
            assert self._db is not None
            return [Row(*row) for row in self._db.execute(_QUERY, {"limit": limit}).fetchall()]
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"outbox {self._path}: {error}") from error

    def body(self, row: Row) -> bytes | None:
        """The signed bytes of `row`, None when it was deleted meanwhile. Raises StoreError."""
        try:
            self._open()
            assert self._db is not None
            found = self._db.execute(
                "SELECT body FROM segments WHERE id = ? AND hash = ?", (row.id, row.hash)
            ).fetchall()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"outbox {self._path}: {error}") from error
        return bytes(found[0][0]) if found else None

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        if self._db is not None:
            self._db.close()
        self._db, self._version = None, -1

    def _open(self) -> int:
        """The file's data version, opened anew if it is another file."""
        inode = self._path.stat().st_ino
        if self._db is not None and inode != self._inode:
            self.close()
        if self._db is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S, isolation_level=None)
            self._inode = inode
        (version,) = self._db.execute("PRAGMA data_version").fetchall()[0]
        return int(version)
