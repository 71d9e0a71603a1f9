"""A segment: a batch of events of one run under one signature, chained to the one before it.

Payload (CBOR array, grammar in `segment.cddl`), signed as COSE_Sign1 with the device's *event* key:

    [version, tenant, device, run, number, previous, clock kind, [* event], [* tombstone]]

`previous` is the hash of the segment before it in the run; in segment 0 it is [run, number, hash] of
the last segment known before the run began, or [reason] where that is not known. The hash of a segment
is SHA-256 over its signed bytes; that hash is also the leaf in the transparency log.

A **tombstone** stands for what is missing on purpose or by a crash, so that the chain closes over it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

from edge import event as ev
from edge.errors import FormatError
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor, cose
from firmware_bridge.wire.stamp import ClockKind

VERSION: Final = 1
RUN_BYTES: Final = 16
HASH_BYTES: Final = 32
MAX_SEGMENT_BYTES: Final = 64 * 1024
"""Signed bytes; a tlog entry bundle cannot hold more, and brokers are configured for it."""
SEAL_EVENTS: Final = 50
"""Events per telemetry segment: 11 bytes of overhead an event, 15 times cheaper to verify than one by one."""


@unique
class Lost(IntEnum):
    """Why what a tombstone stands for is missing."""

    THINNED = 1
    """Whole sealed telemetry segments dropped to stay within the outbox's bounds."""
    CRASH = 2
    """Read, but not yet accepted when the process died."""
    REFUSED_FULL = 3
    """Could not be stored: no space."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The last segment known before a run began."""

    run: bytes
    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is missing: `count` events (segments first .. last of `run` when thinned)."""

    reason: Lost
    run: bytes
    first: int
    """First number missing: of segments when THINNED, of events otherwise."""
    last: int
    """Last number missing, inclusive."""
    count: int
    """How many events are missing; for CRASH an upper bound when the high-water mark was not on disk."""
    from_mono_ns: int
    to_mono_ns: int
    hash_before: bytes
    """THINNED: hash of the segment before the range; otherwise empty."""
    hash_end: bytes
    """THINNED: hash of the last segment in the range; otherwise empty."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The content that is signed."""

    tenant: str
    device: str
    run: bytes
    number: int
    previous: bytes | Previous | str
    clock: ClockKind
    events: tuple[ev.Event, ...]
    tombstones: tuple[Tombstone, ...] = ()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment with its signed bytes."""

    segment: Segment
    data: bytes
    kid: bytes

    @property
    def hash(self) -> bytes:
        """SHA-256 over the signed bytes."""
        return segment_hash(self.data)


def segment_hash(data: bytes) -> bytes:
    """The identity of signed bytes: in the chain, in receipts and in the log."""
    return hashlib.sha256(data).digest()


def seal(segment: Segment, key: cose.PrivateKey, kid: bytes) -> Sealed:
    """Sign `segment`. Raises FormatError when it is larger than MAX_SEGMENT_BYTES."""
    data = cose.sign1(cbor.encode(_payload(segment)), key, kid)
    if len(data) > MAX_SEGMENT_BYTES:
        raise FormatError(f"segment of {len(data)} bytes, at most {MAX_SEGMENT_BYTES}")
    return Sealed(segment, data, kid)


def verify(data: bytes, resolve: cose.Resolve) -> Sealed:
    """Check signature and form of `data`.

    Raises firmware_bridge.errors.SignatureError for a bad signature or key, WireError for bytes that are
    not a COSE_Sign1, FormatError for a payload that is not a segment.
    """
    signed = cose.verify1(data, resolve)
    return Sealed(parse(signed.payload), data, signed.kid)


def peek(data: bytes) -> Sealed:
    """The content of `data` **without checking its signature**: for display and quarantine only."""
    signed = cose.peek(data)
    return Sealed(parse(signed.payload), data, signed.kid)


def parse(payload: bytes) -> Segment:
    """The segment of an already verified payload. Raises FormatError."""
    try:
        value = cbor.decode(payload, max_bytes=MAX_SEGMENT_BYTES)
    except WireError as error:
        raise FormatError(str(error)) from error
    match value:
        case [
            int(version), str(tenant), str(device), bytes(run), int(number),
            previous, int(clock), list(events), list(tombstones),
        ]:  # fmt: skip
            if version != VERSION:
                raise FormatError(f"segment version {version}; this software reads {VERSION}")
            if len(run) != RUN_BYTES or number < 0 or clock not in ClockKind._value2member_map_:
                raise FormatError("run, number or clock kind is not possible")
            return Segment(
                tenant, device, run, number, _parse_previous(previous, number), ClockKind(clock),
                tuple(ev.from_value(item) for item in events),
                tuple(_parse_tombstone(item) for item in tombstones),
            )  # fmt: skip
    raise FormatError("not a segment array")


def _payload(segment: Segment) -> cbor.Value:
    previous: cbor.Value
    match segment.previous:
        case bytes() as digest:
            previous = digest
        case Previous(run, number, digest):
            previous = [run, number, digest]
        case reason:
            previous = [reason]
    tombstones: list[cbor.Value] = [
        [
            int(t.reason), t.run, t.first, t.last, t.count, t.from_mono_ns, t.to_mono_ns,
            t.hash_before, t.hash_end,
        ]
        for t in segment.tombstones
    ]  # fmt: skip
    return [
        VERSION, segment.tenant, segment.device, segment.run, segment.number, previous, int(segment.clock),
        [ev.to_value(event) for event in segment.events],
        tombstones,
    ]  # fmt: skip


def _parse_previous(value: cbor.Value, number: int) -> bytes | Previous | str:
    match value:
        case bytes() as digest if number > 0 and len(digest) == HASH_BYTES:
            return digest
        case [bytes() as run, int() as last, bytes() as digest] if number == 0:
            if len(run) == RUN_BYTES and last >= 0 and len(digest) == HASH_BYTES:
                return Previous(run, last, digest)
        case [str() as reason] if number == 0:
            return reason
    raise FormatError(f"segment {number} does not name what came before it")


def _parse_tombstone(value: cbor.Value) -> Tombstone:
    match value:
        case [
            int(reason),
            bytes(run),
            int(first),
            int(last),
            int(count),
            int(t0),
            int(t1),
            bytes(before),
            bytes(end),
        ]:
            if (
                reason in Lost._value2member_map_
                and len(run) == RUN_BYTES
                and 0 <= first <= last
                and count >= 0
            ):
                return Tombstone(Lost(reason), run, first, last, count, t0, t1, before, end)
    raise FormatError("not a tombstone")
