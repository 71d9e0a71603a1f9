"""What was seen and is not yet accepted: numbered, in order, bounded.

`add` gives a draft its seq. `take` hands everything over to be committed; then either `done` or
`put_back`. What does not fit, or cannot be stored, is dropped oldest telemetry first and becomes a
tombstone, so that a seq is never missing without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge import event as ev
from edge.event import Body, Event, Kind
from edge.sealer import Accepted
from edge.segment import Lost, Tombstone
from firmware_bridge.wire.stamp import Stamp

MAX_PENDING: Final = 4096
"""Events held while the store is full or slow: about 2 MB, over an hour of one event a second."""
COMMIT_AT: Final = 512
"""Events after which a commit is due whatever the time: bounds what one crash can cost."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has its place in the run."""

    kind: Kind
    stamp: Stamp
    body: Body
    urgent: bool = False
    """Accepted and sealed at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be committed in one go."""

    items: tuple[Accepted, ...]
    lost: tuple[Tombstone, ...]


class Intake:
    """The queue between the pipeline and the store. One owner; not for several threads."""

    def __init__(self, run: bytes) -> None:
        self.run = run
        self.next_seq = 0
        self.refused = 0
        """Events dropped because they could not be stored, since the start."""
        self._pending: list[Accepted] = []
        self._in_flight: list[Accepted] = []
        self._lost: list[Tombstone] = []
        self._lost_in_flight: list[Tombstone] = []

    def __len__(self) -> int:
        return len(self._pending) + len(self._in_flight)

    def add(self, draft: Draft) -> Accepted:
        """Number `draft`. Raises FormatError, and uses no number, when it is too large for an event."""
        event = Event(self.next_seq, draft.kind, draft.stamp, draft.body)
        item = Accepted(event, ev.encode(event), draft.urgent)
        self.next_seq += 1
        self._pending.append(item)
        if len(self) > MAX_PENDING and self._pending:
            self._drop_one()
        return item

    def due(self, now_ns: int, interval_ns: int) -> bool:
        """A commit is due: an alarm, the interval is over, or there is much."""
        pending = self._pending
        if not pending or self._in_flight:
            return False
        return (
            len(pending) >= COMMIT_AT
            or now_ns - pending[0].event.stamp.mono_ns >= interval_ns
            or any(item.urgent for item in pending)
        )

    def take(self) -> Batch:
        """Everything, to be committed. Until `done` or `put_back`, nothing else can be taken."""
        if self._in_flight or self._lost_in_flight:
            raise RuntimeError("a batch is in flight already")
        self._in_flight, self._pending = self._pending, []
        self._lost_in_flight, self._lost = self._lost, []
        return Batch(tuple(self._in_flight), tuple(self._lost_in_flight))

    def done(self) -> None:
        """What was taken is durable."""
        self._in_flight, self._lost_in_flight = [], []

    def put_back(self) -> None:
        """What was taken is not accepted; try again later."""
        self._pending = self._in_flight + self._pending
        self._lost = self._lost_in_flight + self._lost
        self._in_flight, self._lost_in_flight = [], []
        while len(self._pending) > MAX_PENDING:
            self._drop_one()

    def shed(self) -> bool:
        """Give up the telemetry that stands before an alarm, so that the alarm can be stored alone.

        False, and nothing is given up, when no alarm waits.
        """
        last = max((n for n, item in enumerate(self._pending) if item.urgent), default=-1)
        if last < 0:
            return False
        kept: list[Accepted] = []
        for item in self._pending[: last + 1]:
            if item.urgent:
                kept.append(item)
            else:
                self._lose(item)
        # What stands behind the alarm can wait: it keeps its numbers.
        self._pending = kept + self._pending[last + 1 :]
        return True

    def take_alarms(self) -> Batch:
        """As `take`, but only up to the last alarm."""
        last = max((n for n, item in enumerate(self._pending) if item.urgent), default=-1)
        behind = self._pending[last + 1 :]
        del self._pending[last + 1 :]
        batch = self.take()
        self._pending = behind
        return batch

    def restart(self, run: bytes, first: Draft) -> dict[int, int]:
        """Begin a new run with `first`: what waits is numbered anew behind it; old seq -> new seq.

        Only while nothing is in flight. Numbers given out before belong to the old run, and are not lost:
        their events are the ones that are numbered anew.
        """
        if self._in_flight:
            raise RuntimeError("a batch is in flight")
        waiting, self._pending = self._pending, []
        self.run, self.next_seq = run, 0
        self.add(first)
        moved: dict[int, int] = {}
        for i in waiting:
            draft = Draft(i.event.kind, i.event.stamp, i.event.body, i.urgent)
            moved[i.event.seq] = self.add(draft).event.seq
        return moved

    def _drop_one(self) -> None:
        index = next((n for n, item in enumerate(self._pending) if not item.urgent), 0)
        self._lose(self._pending.pop(index))

    def _lose(self, item: Accepted) -> None:
        self.refused += 1
        seq, mono = item.event.seq, item.event.stamp.mono_ns
        if self._lost:
            t = self._lost[-1]
            if t.run == self.run and t.last + 1 == seq:
                self._lost[-1] = Tombstone(
                    t.reason,
                    t.run,
                    t.first,
                    seq,
                    t.count + 1,
                    t.from_mono_ns,
                    max(t.to_mono_ns, mono),
                    b"",
                    b"",
                )
                return
        self._lost.append(Tombstone(Lost.REFUSED_FULL, self.run, seq, seq, 1, mono, mono, b"", b""))
