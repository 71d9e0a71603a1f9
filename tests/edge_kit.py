"""What the edge's tests share: a node's configuration, keys, drafts, and a scripted clock."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from edge.config import Config, parse
from edge.event import Body, Key, Kind
from edge.intake import Draft
from edge.sealer import Signer
from edge.segment import Sealed, verify
from firmware_bridge.timekeeper import Now
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import NS, ClockKind, Stamp, TimeSource

EPOCH_NS = 1_900_000_000 * NS
"""Wall time of monotonic 0 in these tests; later than any build."""
KEY = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
KID = cose.key_id(KEY.public_key())
SIGNER = Signer("tenant-a", "car-1", ClockKind.SIMULATED, KEY, KID)

NODE = """
[node]
tenant = "tenant-a"
device = "car-1"
"""
TYRES = """
[vehicle.tyres]
FL = "a1b2c3d4"
FR = "a1b2c3d5"
RL = "a1b2c3d6"
RR = "a1b2c3d7"
"""


def config(text: str = NODE, base: str = "/state") -> Config:
    """A parsed configuration."""
    return parse(text, base=base)


def at(second: float) -> Now:
    """That second of the scenario."""
    mono = round(second * NS)
    return Now(mono, EPOCH_NS + mono, True, 0)


def stamp(second: float) -> Stamp:
    """A stamp at that second."""
    mono = round(second * NS)
    return Stamp(mono, EPOCH_NS + mono, TimeSource.HOST_SYNCED, 100)


def draft(second: float, *, urgent: bool = False, text: str = "x") -> Draft:
    """A fact, or an alarm-like one."""
    body: Body = {Key.SOURCE: "test", Key.TEXT: text}
    return Draft(Kind.FACT, stamp(second), body, urgent)


def resolve(kid: bytes) -> cose.PublicKey | None:
    """The one key of these tests."""
    return KEY.public_key() if kid == KID else None


def opened(data: bytes) -> Sealed:
    """A verified segment."""
    return verify(data, resolve)


def rows(path: Path) -> list[Sealed]:
    """The verified segments of an outbox, in order of sealing."""
    import sqlite3

    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        bodies = db.execute("SELECT body FROM segments ORDER BY id").fetchall()
    db.close()
    return [opened(body) for (body,) in bodies]
