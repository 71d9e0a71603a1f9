"""Keeps an outbox usable whatever happens to its disk, and says in the chain what that cost.

| what happens | what is done |
|---|---|
| the file is damaged | set aside as `outbox.db.damaged-<n>`, what can be read is saved, a new run begins |
| no space | nothing is accepted; the reserve is released for deletes and alarms; telemetry waits, bounded |
| the folder becomes read-only | the same, without a reserve; it heals without a restart |
| a receipt's rows cannot be deleted | they are remembered and deleted as soon as that is possible |

All methods block on the disk: the daemon calls them from its one store thread.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge.config import OutboxLimits
from edge.errors import StoreError, StoreFull
from edge.intake import COMMIT_AT, Batch
from edge.runtime.high_water import HighWater, Mark
from edge.runtime.store import Committed, Figures, Store, StoreDamaged, salvage
from edge.sealer import Signer
from edge.segment import RUN_BYTES, Lost, Previous, Tombstone
from edge.thinning import choose

RESERVE_BYTES: Final = 256 * 1024
"""Room for the WAL of a few hundred deletes and some alarms when the disk is full."""
RESERVE_BACK_BYTES: Final = 4 * 1024 * 1024
"""Free space at which the reserve is set up again."""
MAX_REMEMBERED: Final = 20_000
"""Receipted segments remembered while they cannot be deleted: 2 MB."""
FIRST_START: Final = "first start"

Say = Callable[..., None]


class Outbox:
    """The outbox of one node. `run` is the present run, known before the file can be opened."""

    def __init__(
        self, folder: Path, signer: Signer, limits: OutboxLimits, *, seal_interval_ns: int, say: Say
    ) -> None:
        self.run = secrets.token_bytes(RUN_BYTES)
        self.opening = FIRST_START
        """What is known of the time before the present run, in words."""
        self.dropped_events = 0
        self.set_aside = 0
        self.remembered: set[tuple[bytes, int, bytes]] = set()
        """Receipted, and not yet deleted."""
        self._folder = folder
        self._path = folder / "outbox.db"
        self._reserve = folder / "reserve"
        self._signer = signer
        self._limits = limits
        self._seal_interval_ns = seal_interval_ns
        self._say = say
        self._store: Store | None = None
        self._begun = False
        self._before: Store | None = None
        self._figures = Figures(0, 0, 0)
        try:
            self.high_water: HighWater | None = HighWater(folder / "high-water")
        except OSError as error:
            self.high_water = None
            say("high_water_unusable", level="warning", error=str(error))
        self._marks = self.high_water.before if self.high_water else ()
        if self.high_water:
            self.high_water.begin(self.run)

    # ---- opening -------------------------------------------------------------------------------

    def ensure(self, wall_ns: int) -> Store:
        """The open store with the present run begun. Raises StoreError; try again later."""
        if self._store is None:
            try:
                self._store = self._open()
            except StoreDamaged as error:
                self._put_aside(str(error))
                self._store = self._open()
        if not self._begun:
            self._begin(self._store, wall_ns)
        return self._store

    def _open(self) -> Store:
        return Store(self._path, self._signer, seal_interval_ns=self._seal_interval_ns)

    def _begin(self, store: Store, wall_ns: int) -> None:
        if self._before is not None:
            store.adopt(self._before)
            lost: list[Tombstone] = []
        else:
            lost = [t for mark in self._marks if (t := lost_in_crash(store, mark)) is not None]
        sealed = store.begin_run(self.run, reason=self.opening, lost=lost, wall_ns=wall_ns)
        self._begun, self._before = True, None
        assert store.state is not None
        if isinstance(before := store.state.previous, Previous) and self.opening == FIRST_START:
            self.opening = f"continues run {before.run.hex()} after segment {before.number}"
        if self.high_water:
            self.high_water.settled()
        self._make_reserve()
        for tombstone in lost:
            self._say("lost_in_crash", level="warning", run=tombstone.run.hex(), events=tombstone.count)
        if sealed:
            self._say("sealed_after_crash", segments=len(sealed))

    def _put_aside(self, why: str) -> None:
        """Rename the damaged file with its companions and take over what can be read of it."""
        number = 1
        while (self._folder / f"outbox.db.damaged-{number}").exists():
            number += 1
        aside = self._folder / f"outbox.db.damaged-{number}"
        try:
            for suffix in ("-wal", "-shm", ""):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
        except OSError as error:
            raise StoreError(f"the damaged outbox cannot be set aside: {error}") from error
        self.set_aside += 1
        self.opening = f"store was damaged and set aside as {aside.name}"
        self._say("store_damaged", level="error", detail=why, set_aside=aside.name)
        rows = salvage(aside)
        if rows:
            try:
                fresh = self._open()
                saved = fresh.restore(rows)
                fresh.close()
                self._say("store_salvaged", segments=saved)
            except StoreError as error:
                self._say("store_not_salvaged", level="warning", error=str(error))

    def _damaged_at_work(self, error: StoreDamaged) -> None:
        """The file broke under us: a new store and a new run, going on from what is in memory."""
        assert self._store is not None
        self._before, self._store, self._begun = self._store, None, False
        self._before.close()
        self._put_aside(str(error))
        self.run = secrets.token_bytes(RUN_BYTES)
        if self.high_water:
            self.high_water.begin(self.run)

    # ---- changes while it works ----------------------------------------------------------------

    def reconfigure(self, limits: OutboxLimits, *, seal_interval_ns: int) -> None:
        """Work under other limits from the next commit on."""
        self._limits, self._seal_interval_ns = limits, seal_interval_ns
        if self._store is not None:
            self._store.seal_interval_ns = seal_interval_ns

    def rekey(self, signer: Signer, wall_ns: int) -> None:
        """End the present run under its key, and begin another under the key of `signer`.

        One transaction: its segment 0 names the last one sealed. Raises StoreError; then the old run goes
        on. Numbers given out and not committed must be given out anew.
        """
        store = self.ensure(wall_ns)
        run = secrets.token_bytes(RUN_BYTES)
        try:
            store.begin_run(run, reason=self.opening, lost=(), wall_ns=wall_ns)
        except (StoreDamaged, StoreFull):
            raise
        except StoreError:
            self._reopen()
            raise
        store.signer = self._signer = signer
        self.run = run
        self.opening = f"new event key {signer.kid.hex()}"
        if store.state is not None and isinstance(before := store.state.previous, Previous):
            self.opening += f"; continues run {before.run.hex()} after segment {before.number}"

    # ---- work ----------------------------------------------------------------------------------

    def commit(
        self, batch: Batch, *, now_ns: int, wall_ns: int, flush: bool = False, clean: bool = False
    ) -> Committed:
        """Accept `batch`; durable on return. Raises StoreError, then nothing of it was accepted.

        After a StoreDamaged the next call works on a new store with a new `run`; what was taken must be
        numbered anew.
        """
        store = self.ensure(wall_ns)
        try:
            done = store.commit(batch, now_ns=now_ns, wall_ns=wall_ns, flush=flush, clean=clean)
        except StoreDamaged as error:
            self._damaged_at_work(error)
            raise
        except StoreFull:
            raise
        except StoreError:
            self._reopen()
            raise
        if self.high_water:
            self.high_water.committed(store.next_seq)
        self._after(store, wall_ns)
        return done

    def _after(self, store: Store, wall_ns: int) -> None:
        """What follows a commit: deletes that were owed, bounds, reserve. Nothing here undoes the commit."""
        try:
            self._forget_remembered(store)
            self._figures = store.figures()
            if self._figures.bytes > self._limits.max_bytes:
                self._thin(store, None)
            self._make_reserve()
        except StoreDamaged as error:
            self._say("store_damaged", level="error", detail=str(error))
        except StoreError as error:
            self._say("upkeep_failed", level="warning", error=str(error))

    def _thin(self, store: Store, now_wall_ns: int | None) -> None:
        dropped = choose(
            store.candidates(),
            live_bytes=self._figures.bytes,
            max_bytes=self._limits.max_bytes,
            keep_one_in=self._limits.keep_one_in,
            now_wall_ns=now_wall_ns,
            max_age_s=self._limits.max_age_s,
        )
        if dropped:
            events = store.drop(dropped)
            self.dropped_events += events
            self._figures = store.figures()
            self._say("thinned", level="warning", segments=len(dropped), events=events)

    def age(self, now_wall_ns: int) -> None:
        """Drop telemetry past its age; `now_wall_ns` must be trusted. Raises StoreError."""
        store = self.ensure(now_wall_ns)
        self._figures = store.figures()
        self._thin(store, now_wall_ns)

    def forget(self, entries: Sequence[tuple[bytes, int, bytes]], wall_ns: int) -> tuple[int, int]:
        """Delete what a verified receipt names: (rows deleted, rows remembered until that is possible)."""
        self.remembered.update(entries)
        while len(self.remembered) > MAX_REMEMBERED:
            self.remembered.pop()
        try:
            store = self.ensure(wall_ns)
            gone = self._forget_remembered(store)
            self._figures = store.figures()
        except StoreFull:
            self.release_reserve()
            try:
                gone = self._forget_remembered(self.ensure(wall_ns))
            except StoreError:
                return 0, len(self.remembered)
        except StoreError:
            return 0, len(self.remembered)
        return gone, len(self.remembered)

    def _forget_remembered(self, store: Store) -> int:
        if not self.remembered:
            return 0
        gone = store.forget(sorted(self.remembered))
        self.remembered.clear()
        return gone

    def conflicting(
        self, entries: Sequence[tuple[bytes, int, bytes]], wall_ns: int
    ) -> list[tuple[bytes, int]]:
        """Those of `entries` whose hash is not the one we hold: a receipt for bytes that are not ours."""
        store = self.ensure(wall_ns)
        held = ((run, number, digest, store.hash_of(run, number)) for run, number, digest in entries)
        return [(run, number) for run, number, digest, ours in held if ours is not None and ours != digest]

    def seal_due(self, now_ns: int) -> bool:
        """Committed events have waited long enough for their seal. Not while a commit runs."""
        waiting = self._store.unsealed if self._store is not None and self._begun else []
        return bool(waiting) and now_ns - waiting[0].event.stamp.mono_ns >= self._seal_interval_ns

    @property
    def figures(self) -> Figures:
        """How full the outbox was after the last commit."""
        return self._figures

    def close(self) -> None:
        """Close the files; what is committed stays."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self.high_water is not None:
            self.high_water.close()

    def _reopen(self) -> None:
        """After an I/O error a connection may hold stale state: the next call opens the file again."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    # ---- reserve -------------------------------------------------------------------------------

    def release_reserve(self) -> bool:
        """Give the reserved space back to the disk; False when there was none."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def _make_reserve(self) -> None:
        if self._reserve.exists():
            return
        try:
            free = os.statvfs(self._folder)
            if free.f_bavail * free.f_frsize < RESERVE_BACK_BYTES:
                return
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._say("no_reserve", level="warning", error=str(error))


def lost_in_crash(store: Store, mark: Mark) -> Tombstone | None:
    """What an earlier process had read and not accepted, by the mark it left.

    Exact after a crash of the process. After a power cut the mark may be old: then the bound of what can
    be unaccepted at one moment stands as the count.
    """
    accepted, from_mono = mark.committed_seq, mark.mono_ns
    if store.state is not None and store.state.run == mark.run:
        if store.clean:
            return None
        accepted, from_mono = max(accepted, store.next_seq), min(store.last_mono_ns, mark.mono_ns)
    upper = mark.next_seq if mark.same_boot else max(mark.next_seq, accepted + COMMIT_AT)
    if upper <= accepted:
        return None
    count = upper - accepted
    return Tombstone(Lost.CRASH, mark.run, accepted, upper - 1, count, from_mono, mark.mono_ns, b"", b"")
