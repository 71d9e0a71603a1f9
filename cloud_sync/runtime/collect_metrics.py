"""What the collector counts as it works, and what of its store is counted when somebody asks."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Final

from cryptography import x509

from cloud_sync.errors import CloudError
from cloud_sync.runtime.intake import Outcome
from cloud_sync.runtime.metric_tables import COLLECT_METRICS, HEARD
from cloud_sync.runtime.store import Store
from firmware_bridge.metric import Sample
from firmware_bridge.runtime.exposition import Gathered, Meters, installed_version, new_registry

_MOVED: Final = (
    "holdfast_collect_connected", "holdfast_collect_segments", "holdfast_collect_quarantined",
    "holdfast_collect_alarms", "holdfast_collect_receipts", "holdfast_collect_commit_seconds",
    "holdfast_collect_log_seconds", "holdfast_collect_store_waits",
)  # fmt: skip
_COUNTS: Final = {
    "gaps": "SELECT count(*) FROM record_gaps",
    "forks": "SELECT count(*) FROM forks",
    "log_entries": "SELECT coalesce(max(log_index) + 1, 0) FROM entries",
    "pending": "SELECT count(*) FROM pending",
    "quarantine_rows": "SELECT count(*) FROM quarantine",
}


class CollectMetrics:
    """The meters of one collector. `registry` has them, and what is read of `store` at each scrape."""

    def __init__(self, store: Path, certificate: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._certificate = certificate
        self._wall_s = wall_s
        self.registry = new_registry(Gathered(COLLECT_METRICS, self.gather))
        self._meters = Meters(COLLECT_METRICS, self.registry, _MOVED)

    def committed(self, outcome: Outcome, seconds: float) -> None:
        """A batch is durable."""
        meters = self._meters
        meters.observe("holdfast_collect_commit_seconds", seconds)
        meters.count("holdfast_collect_segments", "accepted", by=outcome.accepted)
        meters.count("holdfast_collect_segments", "duplicate", by=outcome.duplicates)
        for reason, count in outcome.quarantined.items():
            meters.count("holdfast_collect_quarantined", reason.value, by=count)
        for alarm in outcome.alarms:
            meters.count("holdfast_collect_alarms", alarm.kind)

    def logged(self, receipts: int, seconds: float) -> None:
        """A batch is in the log and has its receipts."""
        self._meters.observe("holdfast_collect_log_seconds", seconds)
        self._meters.count("holdfast_collect_receipts", by=receipts)

    def connected(self, up: bool) -> None:
        """The broker delivers, or does not."""
        self._meters.set("holdfast_collect_connected", int(up))

    def waited(self) -> None:
        """The store could not be written."""
        self._meters.count("holdfast_collect_store_waits")

    def gather(self) -> Iterator[Sample]:
        """What is read at a scrape; what cannot be read is missing."""
        yield _one("build", 1, installed_version(), python_version())
        try:
            with Store(self._store, read_only=True) as store:
                yield from list(self._rows(store.db))
        except (CloudError, sqlite3.Error):
            pass  # not there yet, or locked: the next scrape sees it
        for file, path in (("db", self._store), ("wal", self._store.with_name(self._store.name + "-wal"))):
            try:
                yield _one("store_bytes", path.stat().st_size, file)
            except OSError:
                continue
        try:
            disk = os.statvfs(self._store.parent)
            yield _one("disk_free_bytes", disk.f_bavail * disk.f_frsize)
            yield _one("disk_size_bytes", disk.f_blocks * disk.f_frsize)
            found = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        except (OSError, ValueError):
            return
        left = found.not_valid_after_utc - datetime.fromtimestamp(self._wall_s(), UTC)
        yield _one("certificate_days", left.total_seconds() / 86_400)

    def _rows(self, db: sqlite3.Connection) -> Iterator[Sample]:
        now_ms = int(self._wall_s() * 1000)
        for name, query in _COUNTS.items():
            yield _one(name, db.execute(query).fetchone()[0])
        made = db.execute(
            "SELECT made_ms FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC LIMIT 1"
        ).fetchone()
        if made is not None:
            yield _one("checkpoint_age_seconds", max(now_ms - made[0], 0) / 1000)
        counts = dict.fromkeys([*(name for name, _ in HEARD), "longer", "never"], 0)
        for (heard_ms,) in db.execute("SELECT heard_ms FROM vehicles"):
            counts[_heard(heard_ms, now_ms)] += 1
        for name, count in counts.items():
            yield _one("devices", count, name)


def _heard(heard_ms: int | None, now_ms: int) -> str:
    if heard_ms is None:
        return "never"
    age_s = (now_ms - heard_ms) / 1000
    return next((name for name, limit_s in HEARD if age_s <= limit_s), "longer")


def _one(name: str, value: float, *labels: str) -> Sample:
    return Sample(f"holdfast_collect_{name}", value, labels)
