"""ca.db: claim codes, what was issued on them, what was revoked. SQLite, every change one transaction.

Commits reach the disk before anybody is answered (WAL, synchronous FULL). A reader of another process sees
whole transactions; a writer waits for its turn. Times are whole seconds since 1970, UTC.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning.ca import Purpose, Revoked
from provisioning.claim import Claim
from provisioning.errors import CaError
from provisioning.identity import Identity

VERSION: Final = 1
_BUSY_S: Final = 10.0
"""The longest transaction signs two certificates and syncs the disk: milliseconds."""
_SCHEMA: Final = f"""
CREATE TABLE claim (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, model TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE, made INTEGER NOT NULL, not_after INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL DEFAULT 0,
    tls_key BLOB NOT NULL DEFAULT x'', event_key BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX claim_device ON claim (tenant, device);
CREATE TABLE issued (
    serial TEXT PRIMARY KEY, tenant TEXT NOT NULL, device TEXT NOT NULL, purpose TEXT NOT NULL,
    key BLOB NOT NULL, made INTEGER NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL,
    claim INTEGER, der BLOB NOT NULL
) STRICT;
CREATE INDEX issued_device ON issued (tenant, device, purpose);
CREATE INDEX issued_key ON issued (key);
CREATE TABLE revoked (
    serial TEXT PRIMARY KEY, purpose TEXT NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate that was issued."""

    identity: Identity
    purpose: Purpose
    key: bytes
    claim: int | None
    """The claim it goes back to, through renewals."""
    made: datetime
    certificate: x509.Certificate
    revoked: str
    """The reason, or empty."""


@dataclass(frozen=True, slots=True)
class OpenClaim:
    """A code that was made and not used yet; the code itself is not kept."""

    identity: Identity
    model: str
    made: datetime
    not_after: datetime


class Register:
    """ca.db, opened. Methods that change something want to stand inside of `transaction`."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises CaError for a file that is not ours, or damaged."""
        self._lock = threading.RLock()
        new = not path.exists()
        if new and not path.parent.is_dir():
            raise CaError(f"{path.parent} is no authority's folder: make one with `holdfast ca init`")
        try:
            self._db = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            if new:
                path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate(path)
        except sqlite3.Error as error:
            raise CaError(f"{path} cannot be used ({error}): free disk space, or restore it") from error

    def _migrate(self, path: Path) -> None:
        with self.transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
        if version not in (0, VERSION):
            self.close()
            raise CaError(f"{path} is of version {version}, this is {VERSION}: use a newer holdfast")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone among all threads and processes; one inside of another is part of it.

        Raises CaError for the disk's errors.
        """
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
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
                raise CaError(f"the register cannot be written ({error}): nothing was changed") from error

    # --- claims --------------------------------------------------------------------------------------

    def add_claim(
        self, identity: Identity, model: str, digest: bytes, made: datetime, not_after: datetime
    ) -> int:
        """Note a new code and withdraw unused ones of this device. Returns how many those were."""
        with self.transaction() as db:
            withdrawn = self.withdraw(identity)
            db.execute(
                "INSERT INTO claim (tenant, device, model, digest, made, not_after) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (identity.tenant, identity.device, model, digest, _s(made), _s(not_after)),
            )
        return withdrawn

    def withdraw(self, identity: Identity) -> int:
        """Withdraw every unused code of a device."""
        return self._db.execute(
            "UPDATE claim SET withdrawn = 1 "
            "WHERE tenant = ? AND device = ? AND withdrawn = 0 AND tls_key = x''",
            (identity.tenant, identity.device),
        ).rowcount

    def find_claim(self, digest: bytes) -> tuple[int, Claim] | None:
        """The claim of a code, by its digest."""
        return self._claim("digest = ?", digest)

    def claim(self, number: int) -> Claim | None:
        """The claim of that number."""
        found = self._claim("id = ?", number)
        return found[1] if found else None

    def _claim(self, where: str, value: bytes | int) -> tuple[int, Claim] | None:
        row = self._one(
            f"SELECT id, tenant, device, not_after, withdrawn, tls_key, event_key FROM claim WHERE {where}",
            value,
        )
        if row is None:
            return None
        number, tenant, device, not_after, withdrawn, tls_key, event_key = row
        return number, Claim(Identity(tenant, device), _t(not_after), bool(withdrawn), tls_key, event_key)

    def use_claim(self, number: int, purpose: Purpose, key: bytes) -> None:
        """Note the key that was certified on a claim."""
        self._db.execute(f"UPDATE claim SET {purpose.value}_key = ? WHERE id = ?", (key, number))

    def open_claims(self) -> list[OpenClaim]:
        """Codes that were not used, newest last, expired ones included."""
        rows = self._all(
            "SELECT tenant, device, model, made, not_after FROM claim WHERE withdrawn = 0 AND tls_key = x'' "
            "ORDER BY made, id"
        )
        return [OpenClaim(Identity(t, d), model, _t(made), _t(end)) for t, d, model, made, end in rows]

    # --- certificates --------------------------------------------------------------------------------

    def add(self, one: Issued) -> None:
        """Note a certificate."""
        certificate = one.certificate
        self._db.execute(
            "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                _hex(certificate.serial_number), one.identity.tenant, one.identity.device, one.purpose.value,
                one.key, _s(one.made), _s(certificate.not_valid_before_utc),
                _s(certificate.not_valid_after_utc), one.claim, certificate.public_bytes(Encoding.DER),
            ),
        )  # fmt: skip

    def by_key(self, key: bytes) -> list[Issued]:
        """Every certificate of a key, oldest first."""
        return self._issued("i.key = ?", key)

    def by_serial(self, serial: int) -> Issued | None:
        """The certificate of that serial number."""
        found = self._issued("i.serial = ?", _hex(serial))
        return found[0] if found else None

    def of_device(self, identity: Identity) -> list[Issued]:
        """Every certificate of a device, oldest first."""
        return self._issued("i.tenant = ? AND i.device = ?", identity.tenant, identity.device)

    def everything(self) -> list[Issued]:
        """Every certificate, device by device, oldest first."""
        return self._issued("1 = 1", order="i.tenant, i.device, i.made, i.rowid")

    def made_since(self, identity: Identity, purpose: Purpose, since: datetime) -> int:
        """How many certificates a device was given since then."""
        row = self._one(
            "SELECT count(*) FROM issued WHERE tenant = ? AND device = ? AND purpose = ? AND made >= ?",
            identity.tenant, identity.device, purpose.value, _s(since),
        )  # fmt: skip
        return int(row[0]) if row else 0

    def is_revoked(self, serial: int) -> bool:
        """Whether a certificate was revoked."""
        return self._one("SELECT 1 FROM revoked WHERE serial = ?", _hex(serial)) is not None

    def revoke(self, identity: Identity, reason: x509.ReasonFlags, at: datetime) -> list[Issued]:
        """Revoke every certificate of a device that is not yet, and withdraw its codes; returns those."""
        with self.transaction() as db:
            found = [one for one in self.of_device(identity) if not one.revoked]
            for one in found:
                db.execute(
                    "INSERT INTO revoked VALUES (?, ?, ?, ?)",
                    (_hex(one.certificate.serial_number), one.purpose.value, _s(at), reason.name),
                )
            self.withdraw(identity)
        return found

    def revoked(self, purpose: Purpose, now: datetime) -> list[Revoked]:
        """Lines of the revocation list: until a week after their expiry (RFC 5280 section 3.3 wants one)."""
        rows = self._all(
            "SELECT r.serial, r.at, r.reason FROM revoked r JOIN issued i USING (serial) "
            "WHERE r.purpose = ? AND i.not_after >= ? ORDER BY r.at, r.serial",
            purpose.value, _s(now - timedelta(days=8)),
        )  # fmt: skip
        return [Revoked(int(serial, 16), _t(at), x509.ReasonFlags[reason]) for serial, at, reason in rows]

    def next_number(self, name: str) -> int:
        """Count `name` up; for revocation lists."""
        with self.transaction() as db:
            row = db.execute(
                "INSERT INTO counter VALUES (?, 1) "
                "ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
                (name,),
            ).fetchone()
        return int(row[0])

    def _issued(self, where: str, *values: object, order: str = "i.made, i.rowid") -> list[Issued]:
        rows = self._all(
            "SELECT i.tenant, i.device, i.purpose, i.key, i.claim, i.made, i.der, coalesce(r.reason, '') "
            f"FROM issued i LEFT JOIN revoked r USING (serial) WHERE {where} ORDER BY {order}",
            *values,
        )
        return [
            Issued(
                Identity(tenant, device), Purpose(purpose), key, claim, _t(made),
                x509.load_der_x509_certificate(der), reason,
            )
            for tenant, device, purpose, key, claim, made, der, reason in rows
        ]  # fmt: skip

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        found = self._all(query, *values)
        return found[0] if found else None

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise CaError(f"the register cannot be read ({error}): restore your backup") from error


def _s(at: datetime) -> int:
    return int(at.timestamp())


def _t(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _hex(serial: int) -> str:
    return f"{serial:040x}"
