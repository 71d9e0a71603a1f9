"""The evidence bundle: one deterministic CBOR file (`.hfb`) that proves what a device said, offline.

    {0: version, 1: scope, 2: origin, 3: checkpoint note, 4: tenant, 5: device,
     6: [* event certificate (DER)], 7: [run, seq] of the incident's opening event / nil,
     8: [* [run, number, hash, index, [* proof hash], bytes / nil]]     segments, by run and number
     9: [* [hash, index, [* proof hash], bytes / nil]]                  statements, by index
     10: [log key, device CA (DER), [* ledger key (compressed point)]]  unproven: whose it claims to be
    11: [* [TIME statement, [* consistency hash]]]                     when the log had what, by size
    12: [* revocation list of the device CA (DER)]}

Version 1 has no sections 11 and 12. For each segment the first TIME statement that covers it is there, with
the proof that the tree of the checkpoint begins with its tree. A segment or statement whose bytes are nil
was erased; its hash, index and proof still stand. The same store at the same checkpoint, and the same
revocation list, give the same bytes. Everything in a bundle is checked by `verify`; section 10 can only be
compared with a trust file, and must then be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloud_sync.errors import BundleError
from edge.segment import HASH_BYTES, RUN_BYTES
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor

VERSION: Final = 2
READ: Final = {1: 11, 2: 13}
"""The versions that are read, and how many sections each has."""
MAX_BUNDLE_BYTES: Final = 256 << 20
"""A vehicle-year at an event a second has about 600 MB of segments: export it by incident, or in parts."""
SCOPE_DEVICE: Final = "device"
SCOPE_INCIDENT: Final = "incident"


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment, or the place of an erased one, with its proof."""

    run: bytes
    number: int
    hash: bytes
    index: int
    proof: tuple[bytes, ...]
    data: bytes | None


@dataclass(frozen=True, slots=True)
class StatementEntry:
    """A statement of the cloud with its proof."""

    hash: bytes
    index: int
    proof: tuple[bytes, ...]
    data: bytes | None


@dataclass(frozen=True, slots=True)
class TimeEntry:
    """A TIME statement with the proof that its tree is the beginning of the checkpoint's."""

    note: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClaimedKeys:
    """The keys that the maker of the bundle says are the collector's. They prove nothing alone."""

    log_key: bytes
    device_ca: bytes
    ledger_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it stands in a file, nothing of it believed yet."""

    scope: str
    origin: str
    note: bytes
    tenant: str
    device: str
    certificates: tuple[bytes, ...]
    incident: tuple[bytes, int] | None
    """Run and sequence number of the opening event; None in a bundle of a whole device."""
    segments: tuple[SegmentEntry, ...]
    statements: tuple[StatementEntry, ...]
    claimed: ClaimedKeys
    times: tuple[TimeEntry, ...] = ()
    revocations: tuple[bytes, ...] = ()
    """Revocation lists of the device CA, DER (RFC 5280 section 5)."""
    version: int = VERSION


def encode(bundle: Bundle) -> bytes:
    """`bundle` as the bytes of a file. Raises BundleError when it is larger than MAX_BUNDLE_BYTES."""
    value: dict[int, cbor.Value] = {
        0: bundle.version,
        1: bundle.scope,
        2: bundle.origin,
        3: bundle.note,
        4: bundle.tenant,
        5: bundle.device,
        6: list(bundle.certificates),
        7: None if bundle.incident is None else [bundle.incident[0], bundle.incident[1]],
        8: [[s.run, s.number, s.hash, s.index, list(s.proof), s.data] for s in bundle.segments],
        9: [[s.hash, s.index, list(s.proof), s.data] for s in bundle.statements],
        10: [bundle.claimed.log_key, bundle.claimed.device_ca, list(bundle.claimed.ledger_keys)],
    }
    if bundle.version > 1:
        value[11] = [[one.note, list(one.proof)] for one in bundle.times]
        value[12] = list(bundle.revocations)
    data = cbor.encode(value)
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"bundle of {len(data)} bytes, at most {MAX_BUNDLE_BYTES}: export less at a time")
    return data


def decode(data: bytes) -> Bundle:
    """The bundle in `data`. Raises BundleError for anything that `encode` would not have written."""
    try:
        value = cbor.decode(data, max_bytes=MAX_BUNDLE_BYTES)
    except WireError as error:
        raise BundleError(f"not an evidence bundle: {error}") from error
    if not isinstance(value, dict) or 0 not in value:
        raise BundleError("not an evidence bundle: it has no version")
    version = value[0]
    if not isinstance(version, int) or isinstance(version, bool) or version not in READ:
        raise BundleError(f"bundle version {version!r:.20}; this software reads 1 and {VERSION}")
    if set(value) != set(range(READ[version])):
        raise BundleError(f"not an evidence bundle: its sections are not 0 to {READ[version] - 1}")
    times, revocations = value.get(11, []), value.get(12, [])
    match value:
        case {
            1: str(scope), 2: str(origin), 3: bytes(note), 4: str(tenant), 5: str(device),
            6: list(certificates), 7: incident, 8: list(segments), 9: list(statements),
            10: [bytes(log_key), bytes(device_ca), list(ledger_keys)],
        } if (
            scope in (SCOPE_DEVICE, SCOPE_INCIDENT)
            and isinstance(times, list)
            and isinstance(revocations, list)
        ):  # fmt: skip
            return Bundle(
                scope, origin, note, tenant, device, _bytes(certificates), _incident(incident, scope),
                tuple(_segment(item) for item in segments), tuple(_statement(item) for item in statements),
                ClaimedKeys(log_key, device_ca, _bytes(ledger_keys)),
                tuple(_time(item) for item in times), _bytes(revocations), version,
            )  # fmt: skip
    if not isinstance(value[10], list) or len(value[10]) != 3:
        raise BundleError("the bundle's own copy of the keys (section 10) cannot be read: it was altered")
    raise BundleError("not an evidence bundle: a section has another form")


def _bytes(items: list[cbor.Value]) -> tuple[bytes, ...]:
    out = tuple(item for item in items if isinstance(item, bytes))
    if len(out) != len(items):
        raise BundleError("not an evidence bundle: a list holds something that is not bytes")
    return out


def _incident(value: cbor.Value, scope: str) -> tuple[bytes, int] | None:
    match value:
        case [bytes() as run, int() as seq] if (
            scope == SCOPE_INCIDENT and len(run) == RUN_BYTES and _count(seq)
        ):
            return run, seq
        case None if scope == SCOPE_DEVICE:
            return None
    raise BundleError("not an evidence bundle: the incident it is about cannot be read")


def _segment(value: cbor.Value) -> SegmentEntry:
    match value:
        case [
            bytes() as run,
            int() as number,
            bytes() as digest,
            int() as index,
            list() as proof,
            (bytes() | None) as data,
        ]:
            if len(run) == RUN_BYTES and len(digest) == HASH_BYTES and _count(number) and _count(index):
                return SegmentEntry(run, number, digest, index, _bytes(proof), data)
    raise BundleError("not an evidence bundle: a segment's entry has another form")


def _statement(value: cbor.Value) -> StatementEntry:
    match value:
        case [bytes() as digest, int() as index, list() as proof, (bytes() | None) as data]:
            if len(digest) == HASH_BYTES and _count(index):
                return StatementEntry(digest, index, _bytes(proof), data)
    raise BundleError("not an evidence bundle: a statement's entry has another form")


def _time(value: cbor.Value) -> TimeEntry:
    match value:
        case [bytes() as note, list() as proof]:
            return TimeEntry(note, _bytes(proof))
    raise BundleError("not an evidence bundle: a TIME statement's entry has another form")


def _count(value: int) -> bool:
    return not isinstance(value, bool) and value >= 0
