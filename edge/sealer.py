"""From accepted events to signed segments: what is sealed together, and how the chain goes on.

    plan   which events make a segment now, in seq order, and which wait
    Signer numbers, chains and signs what was planned

Rules: a segment holds at most SEAL_EVENTS events and SEAL_BYTES of them; an alarm is sealed at once, in a
segment of lane 0 that holds alarms only; what was waiting before it is sealed first, in lane 1, so that
seq order and segment order agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from edge import segment as seg
from edge.errors import FormatError
from edge.event import Event
from edge.segment import SEAL_EVENTS, Lost, Previous, Sealed, Segment, Tombstone
from firmware_bridge.wire import cbor, cose
from firmware_bridge.wire.stamp import ClockKind

LANE_ALARM: Final = 0
LANE_TELEMETRY: Final = 1
SEAL_BYTES: Final = 40 * 1024
"""Bytes of events in a segment; with MAX_TOMBSTONES it stays below the 64 KiB of a segment."""
MAX_TOMBSTONES: Final = 128
"""Tombstones in one segment, about 140 bytes each; more wait for the next one."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event with its place in the run and its encoding; urgent ones are alarms."""

    event: Event
    data: bytes
    urgent: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Events that make one segment."""

    lane: int
    items: tuple[Accepted, ...]


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where the chain stands: the next segment's run, number and what it names before it."""

    run: bytes
    number: int
    previous: bytes | Previous | str

    def then(self, run: bytes) -> ChainState:
        """The state at the begin of a new run that follows this one."""
        if self.number == 0:
            return ChainState(run, 0, self.previous)  # the old run never sealed anything
        assert isinstance(self.previous, bytes)
        return ChainState(run, 0, Previous(self.run, self.number - 1, self.previous))

    def value(self) -> cbor.Value:
        """As it is kept in the store."""
        previous: cbor.Value
        match self.previous:
            case Previous(run, number, digest):
                previous = [run, number, digest]
            case plain:
                previous = plain
        return [self.run, self.number, previous]

    @staticmethod
    def of(value: cbor.Value) -> ChainState:
        """The state of `value()`. Raises FormatError."""
        match value:
            case [bytes() as run, int() as number, [bytes() as before, int() as last, bytes() as digest]]:
                return ChainState(run, number, Previous(before, last, digest))
            case [bytes() as run, int() as number, (bytes() | str()) as previous]:
                return ChainState(run, number, previous)
        raise FormatError("not the state of a chain")


@dataclass(frozen=True, slots=True)
class Row:
    """One sealed segment as it lies in the outbox."""

    lane: int
    sealed: Sealed
    hash: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", self.sealed.hash)

    @property
    def previous(self) -> bytes:
        """Hash of the segment before it in the run; empty for segment 0."""
        previous = self.sealed.segment.previous
        return previous if isinstance(previous, bytes) else b""

    @property
    def mono_range_ns(self) -> tuple[int, int]:
        """Monotonic times of its first and last event."""
        events = self.sealed.segment.events
        return (events[0].stamp.mono_ns, events[-1].stamp.mono_ns) if events else (0, 0)


def plan(
    waiting: Sequence[Accepted], new: Sequence[Accepted], *, now_ns: int, seal_interval_ns: int, flush: bool
) -> tuple[list[Group], list[Accepted]]:
    """What to seal now of `waiting` (committed before) and `new`, and what goes on waiting.

    Telemetry is sealed when a segment is full, when its first event is `seal_interval_ns` old, before an
    alarm, or when `flush` is set.
    """
    groups: list[Group] = []
    run: list[Accepted] = []
    size = 0

    def close() -> None:
        nonlocal size
        if run:
            groups.append(Group(LANE_ALARM if run[0].urgent else LANE_TELEMETRY, tuple(run)))
            run.clear()
        size = 0

    for item in (*waiting, *new):
        full = len(run) >= SEAL_EVENTS or size + len(item.data) > SEAL_BYTES
        if run and (full or run[0].urgent is not item.urgent):
            close()
        run.append(item)
        size += len(item.data)
    if run and (
        flush
        or run[0].urgent
        or len(run) >= SEAL_EVENTS
        or now_ns - run[0].event.stamp.mono_ns >= seal_interval_ns
    ):
        close()
    return groups, run


@dataclass(frozen=True, slots=True)
class Signer:
    """Who seals: the device and its event key."""

    tenant: str
    device: str
    clock: ClockKind
    key: cose.PrivateKey
    kid: bytes

    def seal(
        self, state: ChainState, groups: Sequence[Group], tombstones: Sequence[Tombstone]
    ) -> tuple[ChainState, list[Row], list[Tombstone]]:
        """Seal `groups` in order; the state after them, their rows, and the tombstones that still wait."""
        left = list(tombstones)
        rows: list[Row] = []
        for group in groups:
            carried, left = left[:MAX_TOMBSTONES], left[MAX_TOMBSTONES:]
            content = Segment(
                self.tenant, self.device, state.run, state.number, state.previous, self.clock,
                tuple(item.event for item in group.items), tuple(carried),
            )  # fmt: skip
            row = Row(group.lane, seg.seal(content, self.key, self.kid))
            rows.append(row)
            state = ChainState(state.run, state.number + 1, row.hash)
        return state, rows, left


def encode_tombstone(tombstone: Tombstone) -> bytes:
    """As it waits in the store for the next seal."""
    reason, *rest = dataclasses.astuple(tombstone)
    return cbor.encode([int(reason), *rest])


def decode_tombstone(data: bytes) -> Tombstone:
    """The tombstone of `encode_tombstone`. Raises FormatError."""
    match cbor.decode(data):
        case [int() as reason, *rest] if len(rest) == len(dataclasses.fields(Tombstone)) - 1:
            return Tombstone(Lost(reason), *cast("list[int]", rest))  # type: ignore[arg-type]
    raise FormatError("not a tombstone")
