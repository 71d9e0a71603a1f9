"""How full an outbox is, read without touching anything: for doctor and status, whoever runs them.

SQLite makes companions (-wal, -shm) when a WAL database is opened, also for reading; made by root they would
lock the edge out of its own outbox. So where the companions are not there, the file is read as immutable.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECK_BYTES: Final = 256 << 20
"""Files up to this size are checked whole, about a second; larger ones only counted."""
_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What lies in an outbox."""

    path: Path
    segments: int = 0
    alarms: int = 0
    unsealed: int = 0
    bytes: int = 0
    oldest_ns: int | None = None
    """Wall time at which the oldest segment was sealed; None where none is dated."""
    damage: str = ""
    """"" when it is whole, else what SQLite says."""
    checked: bool = True
    set_aside: tuple[str, ...] = ()
    """Files of damaged outboxes that were kept."""


def open_quietly(path: Path) -> sqlite3.Connection:
    """The database for reading; no file is made or changed. Raises sqlite3.Error."""
    companions = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
    live = all(one.exists() for one in companions)
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if live else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S, isolation_level=None)


def look(folder: Path) -> Look | None:
    """The outbox of a state folder; None where there is none yet. Raises PermissionError."""
    path = folder / "outbox.db"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    aside = tuple(
        sorted(
            one.name for one in folder.glob("outbox.db.damaged-*") if not one.name.endswith(("-wal", "-shm"))
        )
    )
    try:
        with path.open("rb"):
            pass
        db = open_quietly(path)
        try:
            segments, alarms, size, oldest = db.execute(
                "SELECT count(*), total(lane = 0), total(length(body)),"
                " min(CASE WHEN created_ns > 0 THEN created_ns END) FROM segments"
            ).fetchone()
            (unsealed,) = db.execute("SELECT count(*) FROM events").fetchone()
            small = path.stat().st_size <= CHECK_BYTES
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0] if small else "ok"
        finally:
            db.close()
    except sqlite3.Error as error:
        return Look(path, bytes=size, damage=str(error), set_aside=aside)
    return Look(
        path, segments, int(alarms), unsealed, int(size), oldest, "" if verdict == "ok" else str(verdict),
        small, aside,
    )  # fmt: skip
