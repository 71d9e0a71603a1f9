"""Counted attempts to log in, in serve.db: many wrong passwords make a name and an address wait.

The wait doubles with every further one, outlives a restart, and is counted before a password is looked at, so
that many attempts at once gain nothing. While one waits nothing is counted and no password is hashed.
"""

from __future__ import annotations

import ipaddress
import sqlite3
from typing import Final

from cloud_sync.runtime.serve.accounts import digest, name_key

NAME_FREE: Final = 5
"""Wrong passwords of one name before it must wait."""
NAME_LONGEST_S: Final = 300
"""Longest wait of a name: a stranger must not lock an operator out for a night."""
ADDRESS_FREE: Final = 20
"""Wrong passwords from one address before it must wait: an office shares an address."""
ADDRESS_LONGEST_S: Final = 900
FORGET_MS: Final = 24 * 3_600_000
"""Counted attempts are forgotten after a day without another one."""


def begin_attempt(db: sqlite3.Connection, name: str, address: str, now_ms: int) -> int:
    """Count an attempt before it is checked, so that many at once gain nothing. In a transaction.

    Returns 0, or the seconds to wait; then nothing was counted.
    """
    db.execute("DELETE FROM attempts WHERE last_ms < ?", (now_ms - FORGET_MS,))
    wait_ms = 0
    for key, _, _ in _attempt_keys(name, address):
        row = db.execute("SELECT until_ms FROM attempts WHERE key = ?", (key,)).fetchone()
        wait_ms = max(wait_ms, 0 if row is None else int(row[0]) - now_ms)
    if wait_ms > 0:
        return -(-wait_ms // 1000)
    for key, free, longest_s in _attempt_keys(name, address):
        row = db.execute("SELECT failures FROM attempts WHERE key = ?", (key,)).fetchone()
        failures = (0 if row is None else int(row[0])) + 1
        wait_s = min(longest_s, 2 ** min(failures - free, 20)) if failures >= free else 0
        db.execute(
            "INSERT INTO attempts(key, failures, until_ms, last_ms) VALUES(?,?,?,?)"
            " ON CONFLICT(key) DO UPDATE SET failures = excluded.failures, until_ms = excluded.until_ms,"
            " last_ms = excluded.last_ms",
            (key, failures, now_ms + wait_s * 1000, now_ms),
        )
    return 0


def end_attempt(db: sqlite3.Connection, name: str, address: str) -> None:
    """The attempt was right: the name begins anew, the address has one failure less. In a transaction."""
    (by_name, _, _), (by_address, _, _) = _attempt_keys(name, address)
    db.execute("DELETE FROM attempts WHERE key = ?", (by_name,))
    db.execute(
        "UPDATE attempts SET failures = failures - 1, until_ms = 0 WHERE key = ? AND failures > 0",
        (by_address,),
    )


def _attempt_keys(name: str, address: str) -> tuple[tuple[bytes, int, int], tuple[bytes, int, int]]:
    """(key, free failures, longest wait in s) of the name and of the address."""
    return (
        (digest(f"name:{name_key(name)}"), NAME_FREE, NAME_LONGEST_S),
        (digest(f"address:{network_of(address)}"), ADDRESS_FREE, ADDRESS_LONGEST_S),
    )


def network_of(address: str) -> str:
    """What one attacker has: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
