"""The sequencer: sole holder of the log key. Gives indices to what is pending and signs the new tree heads.

One step: (1) in one transaction assign indices, write entries and tiles, commit the *unsigned* (size, root);
(2) sign it; (3) store the note; (4) replace `published.checkpoint` beside the store; only then may receipts
be made. A size has one root, because the root is committed before the key is used; a crash between any two
steps is repaired at the next start by signing what was committed.

**Times.** Once in TIME_EVERY_S, where there is something new, the log also signs *when* it had its newest
root (a TIME statement, `times`). So every entry has a signed moment by which it was logged, and a segment
can be judged by it when the certificate that it was signed under has ended. These moments never go back.

Two fences: an epoch row that each sequencer raises when it starts and checks in every transaction (a second
collector on the same store stops the first), and the published checkpoint (a store restored from a backup
that is older than what the world has seen must not sign again: it would fork the log).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_sync.errors import Fenced, LogDamaged, LogError, RolledBack
from cloud_sync.log import tiles
from cloud_sync.log.checkpoint import public_bytes, sign_checkpoint, sign_time
from cloud_sync.runtime.kinds import collect_say as say
from cloud_sync.runtime.store import KIND_SEGMENT, Store
from edge.errors import NoteError
from edge.merkle import leaf_hash
from edge.note import Checkpoint, verify_checkpoint
from firmware_bridge.runtime.clock import BUILD_FLOOR_NS

MAX_BATCH: Final = 4096
"""Entries of one step: 132 KB of entries and tiles in one transaction."""

TIME_EVERY_S: Final = 600
"""Between two TIME statements: 144 of 250 bytes a day at most. What was logged in the last ten minutes before
a certificate ended or was revoked cannot be told from what was logged after it, and is refused."""
FLOOR_S: Final = BUILD_FLOOR_NS // 1_000_000_000
"""Before this software was built nothing can have been logged by it: such a clock is wrong."""


class Published:
    """The newest checkpoint that left this machine, in a file beside the store, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """The note, None where none was ever published."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, note: bytes) -> None:
        """Durable on return: the new file is synced, renamed over the old one, and the folder synced."""
        fresh = self.path.with_name(self.path.name + ".new")
        with fresh.open("wb") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Sequencer:
    """Open it once a process; whoever opens last owns the log."""

    def __init__(
        self,
        store: Store,
        origin: str,
        key: Ed25519PrivateKey,
        published: Published,
        wall_ms: Callable[[], int],
        floor_s: int = FLOOR_S,
    ) -> None:
        """Take the epoch and repair what a crash left. No time before `floor_s` (since 1970) is signed.

        Raises RolledBack when the store is behind, or differs from, the published checkpoint; LogDamaged
        when entries, tiles and checkpoints disagree; ConfigError when the store is another log's.
        """
        self._store = store
        self.origin = origin
        """Name of the log; stands in every checkpoint and receipt."""
        self._key = key
        self._published = published
        self._wall_ms = wall_ms
        self._floor_s = max(1, floor_s)
        store.identify({"origin": origin.encode(), "log_key": public_bytes(key)})
        self._check_tree()
        self._check_published()
        with store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES('epoch', CAST('0' AS BLOB))")
            db.execute(
                "UPDATE meta SET value=CAST(CAST(CAST(value AS TEXT) AS INTEGER)+1 AS BLOB) WHERE key='epoch'"
            )
            self._epoch = store.meta("epoch")
        self.note = store.latest_note()
        """The newest signed checkpoint; receipts carry it. None while the log is empty."""
        self.size = store.size()
        """Entries under `note`."""
        self._publish()
        row = store.db.execute("SELECT size, at_s FROM times ORDER BY size DESC LIMIT 1").fetchone()
        self._timed = (0, 0) if row is None else (int(row[0]), int(row[1]))
        """(size, seconds) of the newest TIME statement."""
        self._clock_said = False

    def step(self) -> int:
        """Log everything that is pending; how many entries. Returns 0 where there was nothing.

        Raises Fenced when another sequencer took over, StoreBusy when the store cannot be written now
        (call again), OSError when the published checkpoint cannot be replaced (call again).
        """
        total = 0
        while True:
            done = self._assign()
            self._publish()
            total += done
            if done < MAX_BATCH:
                self._tell_time()
                return total

    def _assign(self) -> int:
        store = self._store
        with store.transaction() as db:
            self._check_epoch()
            rows = db.execute(
                "SELECT id, tenant, kind, hash FROM pending ORDER BY id LIMIT ?", (MAX_BATCH,)
            ).fetchall()
            if not rows:
                return 0
            size = store.size()
            changed = tiles.append(size, [leaf_hash(row[3]) for row in rows], store.tile)
            db.executemany(
                "INSERT INTO entries(log_index, tenant, kind, hash) VALUES(?,?,?,?)",
                [(size + n, tenant, kind, digest) for n, (_, tenant, kind, digest) in enumerate(rows)],
            )
            db.executemany(
                "INSERT INTO tiles VALUES(?,?,?) ON CONFLICT(level, number) DO UPDATE SET data=excluded.data",
                [(level, number, data) for (level, number), data in changed.items()],
            )
            for n, (_, _, kind, digest) in enumerate(rows):
                table = "segments" if kind == KIND_SEGMENT else "statements"
                db.execute(f"UPDATE {table} SET log_index=? WHERE hash=?", (size + n, digest))
            db.execute("DELETE FROM pending WHERE id<=?", (rows[-1][0],))
            root = tiles.root(size + len(rows), store.tile)
            db.execute(
                "INSERT INTO checkpoints(size, root, made_ms) VALUES(?,?,?)",
                (size + len(rows), root, self._wall_ms()),
            )
        return len(rows)

    def _publish(self) -> None:
        """Sign the newest committed root if nobody did, and make sure that the file says it."""
        row = self._store.db.execute(
            "SELECT size, root, note FROM checkpoints ORDER BY size DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return
        size, root, note = int(row[0]), bytes(row[1]), row[2]
        if note is None:
            note = sign_checkpoint(Checkpoint(self.origin, size, root), self._key)
            with self._store.transaction() as db:
                self._check_epoch()
                db.execute("UPDATE checkpoints SET note=? WHERE size=? AND note IS NULL", (note, size))
        if self._published.read() != note:
            self._published.write(note)
        self.note, self.size = note, size

    def _tell_time(self) -> None:
        """Sign when the log has what it has, if something is new and the last time is long enough ago."""
        at_s = -(-self._wall_ms() // 1000)  # rounded up: everything that is logged was logged by then
        size, last_s = self._timed
        if self.size <= size or last_s <= at_s < last_s + TIME_EVERY_S:
            return
        if at_s < max(last_s, self._floor_s):
            if not self._clock_said:
                say("clock_behind")
            self._clock_said = True
            return
        assert self.note is not None
        head = verify_checkpoint(self.note, self.origin, public_bytes(self._key))
        note = sign_time(Checkpoint(self.origin, head.size, head.root), at_s, self._key)
        with self._store.transaction() as db:
            self._check_epoch()
            db.execute("INSERT OR IGNORE INTO times VALUES(?,?,?)", (head.size, at_s, note))
        self._timed, self._clock_said = (head.size, at_s), False

    def _check_epoch(self) -> None:
        if self._store.meta("epoch") != self._epoch:
            raise Fenced("another collector has opened this store: this one stops signing")

    def _check_tree(self) -> None:
        size = self._store.size()
        row = self._store.db.execute("SELECT max(size) FROM checkpoints").fetchone()
        if (row[0] or 0) != size:
            raise LogDamaged(
                f"the log has {size} entries but its last root is of size {row[0] or 0}: restore the store"
            )
        if size:
            stored = self._store.db.execute("SELECT root FROM checkpoints WHERE size=?", (size,)).fetchone()[
                0
            ]
            if bytes(stored) != tiles.root(size, self._store.tile):
                raise LogDamaged("the tiles do not give the committed root: restore the store")

    def _check_published(self) -> None:
        note = self._published.read()
        if note is None:
            signed = self._store.db.execute(
                "SELECT count(*) FROM checkpoints WHERE note IS NOT NULL"
            ).fetchone()[0]
            if signed > 1:  # the first one may have been stored and its file not yet written
                raise RolledBack(
                    f"{self._published.path} is missing but this log has signed before: put the file back"
                    " (the newest receipt or bundle holds the note), or a restored store could fork the log"
                )
            return
        try:
            seen = verify_checkpoint(note, self.origin, public_bytes(self._key))
        except NoteError as error:
            raise LogError(f"{self._published.path} is not a checkpoint of this log: {error}") from error
        size = self._store.size()
        if seen.size > size:
            raise RolledBack(
                f"this store has {size} entries but a checkpoint of {seen.size} was published: it was"
                " restored from an old copy. Nothing is signed. Restore the newest store, or start a log of"
                " a new origin"
            )
        if seen.root != tiles.root(seen.size, self._store.tile):
            raise RolledBack(
                f"the published checkpoint of size {seen.size} has another root: this is not that log"
            )
