"""What the collector thinks of one message: accepted, a duplicate, or quarantined with a reason. Pure.

A device's word counts only under its own event key: the tenant and device of the topic, of the segment and
of the certificate must be the same. Nothing is merged: a second segment of the same place in a chain is a
fork, kept beside the first as evidence of a cloned or rogue device, and logged like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_sync.errors import CertificateError
from edge import segment as sg
from edge.errors import EdgeError, FormatError
from edge.topics import parse_seg_topic
from firmware_bridge.errors import SignatureError, WireError
from firmware_bridge.wire import cose
from firmware_bridge.wire.stamp import ClockKind
from provisioning.ca import verify_event_certificate
from provisioning.errors import IdentityError

MAX_INT: Final = (1 << 63) - 1
"""Largest number a store's integer column holds; CBOR allows more."""
_DETAIL_CHARS: Final = 300


@unique
class Reason(StrEnum):
    """Why a message went to quarantine. Names stand in the store and are never reused."""

    OVERSIZED = "oversized"
    WRONG_TOPIC = "wrong_topic"
    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    WRONG_KEY = "wrong_key"
    BAD_SIGNATURE = "bad_signature"
    WRONG_DEVICE = "wrong_device"
    WRONG_CLOCK = "wrong_clock"
    EXPIRED_KEY = "expired_key"


REMEDIES: Final[dict[Reason, str]] = {
    Reason.OVERSIZED: "no edge seals such a segment: update its software, or see who else sends there",
    Reason.WRONG_TOPIC: "see which client the broker lets publish there, and correct its access rules",
    Reason.MALFORMED: "these bytes are no segment: update its software, or see who else sends there",
    Reason.UNKNOWN_DEVICE: "if it is yours, enrol it: put its event certificate at "
    "devices/TENANT/DEVICE.crt; it is found without a restart, and the device sends again",
    Reason.WRONG_KEY: "put the certificate of its present event key (not of its TLS key) at "
    "devices/TENANT/DEVICE.crt; if the one there is right, somebody sends in its name: revoke its TLS key",
    Reason.BAD_SIGNATURE: "the bytes were changed after they were signed: check the device's storage; if "
    "that is sound, somebody sends in its name: revoke its TLS key",
    Reason.WRONG_DEVICE: "its node.toml names another tenant or device than its keys: correct it",
    Reason.WRONG_CLOCK: "a replay or simulation: send it to a collector for those, or take its kind into "
    "[policy] accept_kinds",
    Reason.EXPIRED_KEY: "renew its event certificate and put it at devices/TENANT/DEVICE.crt; if it is "
    "valid, this machine's clock is wrong",
}
"""What an operator does about each reason."""


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message as it came."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A device's event key and who vouches for it."""

    tenant: str
    device: str
    kid: bytes
    key: cose.PublicKey
    not_before_ms: int
    not_after_ms: int
    der: bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """What this collector takes."""

    accept_kinds: frozenset[ClockKind] = frozenset({ClockKind.LIVE})
    """Whose time a segment may be made under; a live tenant's collector takes LIVE only."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A segment with a good signature that is not in the store."""

    sealed: sg.Sealed
    forks: tuple[bytes, ...] = ()
    """Hashes of stored segments that claim the same place in the device's chain."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A segment that is already stored: it gets its receipt again."""

    sealed: sg.Sealed


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that must not enter the log."""

    message: Message
    tenant: str
    device: str
    """Of the topic; empty where it is none of ours."""
    reason: Reason
    detail: str
    """One sentence that says what is wrong; REMEDIES says what to do."""


class Registry:
    """The devices that are known, by key id."""

    def __init__(self, certificates: Iterable[DeviceCertificate] = ()) -> None:
        self._by_kid: dict[bytes, DeviceCertificate] = {c.kid: c for c in certificates}
        self._devices = {(c.tenant, c.device) for c in self._by_kid.values()}

    def __len__(self) -> int:
        return len(self._by_kid)

    def get(self, kid: bytes) -> DeviceCertificate | None:
        """The certificate of the event key `kid`, or None."""
        return self._by_kid.get(kid)

    def knows(self, tenant: str, device: str) -> bool:
        """Whether that device has a certificate here."""
        return (tenant, device) in self._devices


def read_certificate(der: bytes, ca: x509.Certificate) -> DeviceCertificate:
    """The event certificate in `der`, issued by `ca`. Its validity is judged when a segment comes.

    Raises CertificateError when another authority issued it or it is for another purpose (a TLS
    certificate, an authority).
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        at = max(certificate.not_valid_before_utc, ca.not_valid_before_utc)
        identity = verify_event_certificate(certificate, ca, at)
        key = certificate.public_key()
    except (ValueError, IdentityError) as error:
        raise CertificateError(f"{error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateError("the event key is not a P-256 key")
    return DeviceCertificate(
        identity.tenant, identity.device, cose.key_id(key), key,
        _ms(certificate.not_valid_before_utc), _ms(certificate.not_valid_after_utc), der,
    )  # fmt: skip


def examine(
    message: Message, registry: Registry, policy: Policy, received_ms: int
) -> sg.Sealed | Quarantined:
    """Everything that can be said about `message` without the store. Never raises for what a device sent."""
    try:
        tenant, device = parse_seg_topic(message.topic)
    except (EdgeError, ValueError) as error:
        return Quarantined(message, "", "", Reason.WRONG_TOPIC, f"{error}"[:_DETAIL_CHARS])

    def refuse(reason: Reason, detail: str) -> Quarantined:
        return Quarantined(message, tenant, device, reason, detail[:_DETAIL_CHARS])

    if len(message.payload) > sg.MAX_SEGMENT_BYTES:
        return refuse(
            Reason.OVERSIZED, f"{len(message.payload)} bytes; a segment has at most {sg.MAX_SEGMENT_BYTES}"
        )
    asked: list[DeviceCertificate | None] = []

    def resolve(kid: bytes) -> cose.PublicKey | None:
        asked.append(registry.get(kid))
        known = asked[-1]
        return known.key if known is not None and (known.tenant, known.device) == (tenant, device) else None

    try:
        sealed = sg.verify(message.payload, resolve)
    except SignatureError as error:
        if not registry.knows(tenant, device):
            return refuse(
                Reason.UNKNOWN_DEVICE, f"no event certificate of {tenant}/{device} is here: enrol it"
            )
        if asked and (asked[-1] is None or asked[-1].device != device or asked[-1].tenant != tenant):
            return refuse(
                Reason.WRONG_KEY, f"not signed with the event key of {tenant}/{device} (its TLS key?)"
            )
        return refuse(Reason.BAD_SIGNATURE, str(error))
    except (WireError, FormatError) as error:
        return refuse(Reason.MALFORMED, str(error))
    segment = sealed.segment
    if (segment.tenant, segment.device) != (tenant, device):
        return refuse(Reason.WRONG_DEVICE, f"the segment says {segment.tenant}/{segment.device}")
    if segment.number > MAX_INT or any(event.seq > MAX_INT for event in segment.events):
        return refuse(Reason.MALFORMED, "a number beyond 2^63-1")
    if segment.clock not in policy.accept_kinds:
        return refuse(Reason.WRONG_CLOCK, f"made under a {segment.clock.name.lower()} clock, not taken here")
    certificate = asked[-1]
    if certificate is None or segment.clock is not ClockKind.LIVE:
        return sealed
    if not certificate.not_before_ms <= received_ms <= certificate.not_after_ms:
        return refuse(
            Reason.EXPIRED_KEY, f"the event certificate of {tenant}/{device} is not valid now: renew it"
        )
    return sealed


def classify(
    sealed: sg.Sealed, same_number: Iterable[bytes], same_previous: Iterable[bytes]
) -> Accepted | Duplicate:
    """What a verified segment is, given the hashes stored under its number and after its predecessor."""
    own = sealed.hash
    rivals = {digest: None for digest in (*same_number, *same_previous)}
    if own in rivals:
        return Duplicate(sealed)
    return Accepted(sealed, tuple(rivals))


def previous_hash(segment: sg.Segment) -> bytes | None:
    """Hash of the segment that `segment` says came before it; None where it says 'unknown'."""
    match segment.previous:
        case bytes() as digest:
            return digest
        case sg.Previous(hash=digest):
            return digest
    return None


def months(segment: sg.Segment, received_ms: int) -> tuple[str, str]:
    """First and last 'YYYY-MM' (UTC) that `segment` tells of; where it cannot say, of its coming in."""
    walls = [e.stamp.wall_ns // 1_000_000 for e in segment.events if e.stamp.wall_ns is not None]
    sane = [wall for wall in walls if 0 <= wall < _LAST_MS]
    return month(min(sane, default=received_ms)), month(max(sane, default=received_ms))


def month(wall_ms: int) -> str:
    """'YYYY-MM' in UTC of milliseconds since 1970."""
    return _month_of_day(wall_ms // 86_400_000)


@lru_cache(maxsize=1024)  # asked four times a segment, mostly for today
def _month_of_day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m}"


_LAST_MS: Final = 253_402_300_800_000
"""10000-01-01T00:00:00Z."""


def _ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)
