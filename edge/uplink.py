"""What the uplink sends next, and when it sends again: the window, without I/O.

Rules
- Only a receipt settles a segment. A PUBACK frees room on the wire and proves that the broker could take it.
- Alarms (lane 0) go first, whatever waits; telemetry fills the wire only so far that an alarm behind it is
  not delayed by more than about a second.
- No receipt in time: the segment is sent again. While *nothing* is receipted the collector is taken for
  away, and only one segment a growing interval is spent on finding out. A segment that is passed over
  while later ones are receipted pauses alone, each time three times longer.
- What was on the wire unacknowledged when the connection broke is suspect and goes alone next time. One that
  breaks the connection alone is most likely larger than the broker's limit: it pauses, the others go on.
- With MQTT 5 the broker says how large a packet may be: what is larger is named and never sent.
- A receipted segment is never sent again, even while its row cannot be deleted.

Times are seconds of any clock that never goes back; jitter is a random number in 0 .. 1 from the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

LANE_ALARM: Final = 0
PAUSE_FACTOR: Final = 3.0
"""Growth of one segment's pause: from 5 s, seven attempts in the first hour."""
_CAPPED_DOUBLINGS: Final = 16
"""More doublings than any cap needs; keeps 2**n a small number after weeks."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much is under way at once, and the waits. All times in seconds."""

    window: int = 64
    """Telemetry segments without a receipt, 20 .. 100: more gains no rate (PUBACK round trips hide in it)."""
    alarms: int = 100
    """Alarms without a receipt; a node with more has another problem."""
    held: int = 1024
    """Segments paused or receipted and not yet deleted; beyond it no new telemetry is begun."""
    wire_min_bytes: int = 16 * 1024
    wire_start_bytes: int = 64 * 1024
    wire_max_bytes: int = 1 << 20
    """Bytes without a PUBACK: starts at one large segment, follows the delay the link shows."""
    delay_low_s: float = 0.3
    delay_high_s: float = 1.0
    """PUBACKs within `low`: more may be on the wire; later than `high`: half of it."""
    receipt_s: float = 5.0
    """Wait for a receipt; the collector commits every 50 ms, a mobile round trip takes 1 s."""
    receipt_max_s: float = 60.0
    """The same for a collector that is shown to be slow: three times its usual delay, up to this."""
    probe_max_s: float = 300.0
    """Longest pause between attempts to reach a collector that is away."""
    pause_max_s: float = 3600.0
    """Longest pause of a segment that does not get through."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sealed segment in the outbox, without its bytes."""

    id: int
    lane: int
    run: bytes
    number: int
    hash: bytes
    size: int
    """Bytes of the signed segment."""


@unique
class Why(StrEnum):
    """Why a segment does not get through."""

    TOO_LARGE = "too_large"
    """Larger than the broker takes, as it has said itself."""
    BREAKS = "breaks_connection"
    """Each time it is sent alone, the broker ends the connection: suspected larger than its limit."""
    PASSED_OVER = "never_receipted"
    """Acknowledged and never receipted, while later ones are: dropped by the broker (a size limit, access
    rules) or quarantined by the collector."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A segment that does not get through, for status and log."""

    row: Row
    why: Why
    attempts: int
    largest_passed: int
    """Bytes of the largest segment the broker has acknowledged; its limit, if any, is not below."""
    known_limit: int | None = None
    """Bytes of the largest packet, topic and header included, that the broker says it takes."""

    def __str__(self) -> str:
        name = f"segment {self.row.run.hex()[:8]}/{self.row.number} of {self.row.size} bytes"
        if self.why is Why.TOO_LARGE:
            return (
                f"{name} is not sent: the broker's known limit is {self.known_limit} bytes a packet; "
                "raise max_packet_size there"
            )
        limit = f"the broker's limit is suspected from {self.largest_passed} to {self.row.size} bytes"
        if self.why is Why.BREAKS:
            return f"{name} ended the connection {self.attempts} times: {limit}; raise max_packet_size there"
        return (
            f"{name} was sent {self.attempts} times and never receipted, though later ones were: {limit}, "
            "or the collector has quarantined it; look there"
        )


@dataclass(slots=True)
class _Entry:
    row: Row
    sequence: int = -1
    """Order of sending over all segments; -1: not sent on this connection."""
    first_s: float | None = None
    """When it was first sent on this connection."""
    sent_s: float = 0.0
    wait_s: float = 0.0
    """How long after its PUBACK the receipt is overdue."""
    due_s: float = 0.0
    """Acknowledged: when the receipt is overdue. Not sent: not before this time."""
    attempts: int = 0
    acked: bool = False
    breaks: int = 0
    passed_over: int = 0
    settled: bool = False

    @property
    def sent(self) -> bool:
        return self.sequence >= 0

    @property
    def held(self) -> bool:
        """Takes no place in the window: settled, or pausing alone."""
        return self.settled or self.passed_over > 1 or self.breaks > 0


class Window:
    """All segments the uplink knows of, which is those at the head of each lane."""

    def __init__(self, limits: WindowLimits | None = None) -> None:
        self.limits = limits or WindowLimits()
        self._entries: dict[bytes, _Entry] = {}
        self._wire: dict[bytes, _Entry] = {}
        """Those that wait for a PUBACK."""
        self._suspects: dict[bytes, _Entry] = {}
        self._lanes: tuple[list[_Entry], list[_Entry]] = ([], [])
        self._sequence = 0
        self._receipted = -1
        """Highest sequence that was receipted."""
        self._probes = 0
        """Attempts to reach a silent collector since its last receipt."""
        self._probe_due_s = 0.0
        self._wire_limit = self.limits.wire_start_bytes
        self._cut_s = float("-inf")
        self._delay_s = 0.0
        """Smoothed time from first sending to receipt, weighed as in RFC 6298 section 2."""
        self.largest_passed = 0
        self._topic_bytes = 0
        self._max_packet: int | None = None
        self._receive_max: int | None = None

    def announced(self, max_packet: int | None, receive_max: int | None, topic_bytes: int) -> None:
        """What the broker said at this connect (MQTT 5); None for what it did not say.

        `max_packet` in bytes; `receive_max` is how many publishes may wait for their PUBACK; `topic_bytes` is
        the length of the topic that segments are published to.
        """
        self._max_packet, self._receive_max, self._topic_bytes = max_packet, receive_max, topic_bytes

    @property
    def listing(self) -> int:
        """How many rows of each lane `listed` wants: those once sent and a window more."""
        touched = sum(e.attempts > 0 or e.settled or self._too_large(e.row) for e in self._entries.values())
        return touched + self.limits.window + self.limits.alarms

    @property
    def wire_limit(self) -> int:
        """Bytes of telemetry that may be on the wire now."""
        return self._wire_limit

    @property
    def receipt_wait_s(self) -> float:
        """How long a receipt is waited for: a slow collector is not a silent one."""
        return min(max(self.limits.receipt_s, 3 * self._delay_s), self.limits.receipt_max_s)

    def listed(self, rows: Iterable[Row]) -> None:
        """The head of both lanes, at least `listing` rows of each where there are so many.

        Rows that are gone are forgotten, with what was remembered of them.
        """
        known: dict[bytes, _Entry] = {}
        for row in rows:
            entry = self._entries.get(row.hash)
            known[row.hash] = _Entry(row) if entry is None else entry
        self._entries = known
        self._wire = {digest: e for digest, e in self._wire.items() if digest in known}
        self._suspects = {digest: e for digest, e in self._suspects.items() if digest in known}
        for lane in (0, 1):
            mine = [e for e in known.values() if (e.row.lane == LANE_ALARM) == (lane == 0)]
            self._lanes[lane][:] = sorted(mine, key=lambda e: e.row.id)

    def gone(self, digest: bytes) -> None:
        """The row was deleted before it could be read."""
        entry = self._entries.pop(digest, None)
        self._wire.pop(digest, None)
        self._suspects.pop(digest, None)
        for lane in self._lanes:
            if entry in lane:
                lane.remove(entry)

    def next(self, now_s: float, jitter: float, *, alarms_only: bool = False) -> Row | None:
        """The segment to send now, marked as sent; None when there is nothing to send at the moment."""
        if self._receive_max is not None and len(self._wire) >= self._receive_max:
            return None
        entry = self._choose(now_s, jitter, alarms_only)
        if entry is None:
            return None
        self._sequence += 1
        entry.sequence = self._sequence
        entry.sent_s, entry.attempts, entry.acked = now_s, entry.attempts + 1, False
        entry.first_s = now_s if entry.first_s is None else entry.first_s
        self._wire[entry.row.hash] = entry
        wait = self.receipt_wait_s * PAUSE_FACTOR ** min(entry.passed_over, _CAPPED_DOUBLINGS)
        entry.wait_s = _jittered(min(wait, self.limits.pause_max_s), jitter)
        return entry.row

    def acked(self, digest: bytes, now_s: float) -> None:
        """The broker acknowledged this segment."""
        entry = self._entries.get(digest)
        if entry is None or self._wire.pop(digest, None) is None:
            return
        self._suspects.pop(digest, None)
        entry.acked, entry.breaks = True, 0
        entry.due_s = now_s + entry.wait_s
        self.largest_passed = max(self.largest_passed, entry.row.size)
        delay = now_s - entry.sent_s
        if delay < self.limits.delay_low_s:
            self._wire_limit = min(self._wire_limit + entry.row.size, self.limits.wire_max_bytes)
        elif delay > self.limits.delay_high_s and entry.sent_s > self._cut_s:
            self._wire_limit = max(self._wire_limit // 2, self.limits.wire_min_bytes)
            self._cut_s = now_s

    def receipted(self, digests: Collection[bytes], now_s: float) -> int:
        """A receipt for these segments was verified. Returns how many it settled now."""
        settled = 0
        for digest in digests:
            entry = self._entries.get(digest)
            if entry is not None and not entry.settled:
                if (
                    entry.first_s is not None
                ):  # of one sent twice, from the first: else a slow collector never shows
                    self._delay_s += (now_s - entry.first_s - self._delay_s) / 8
                entry.settled, entry.breaks, entry.passed_over = True, 0, 0
                self._wire.pop(digest, None)
                self._suspects.pop(digest, None)
                self._receipted = max(self._receipted, entry.sequence)
                settled += 1
        if settled:
            self._probes = 0
        return settled

    def disconnected(self, now_s: float, jitter: float) -> bool:
        """The connection is gone. Returns whether a segment that was sent alone is to blame."""
        blamed = False
        for digest, entry in self._wire.items():
            others = (o for o in self._wire.values() if o is not entry)
            if digest in self._suspects and all(o.row.lane == LANE_ALARM for o in others):
                entry.breaks, blamed = entry.breaks + 1, True
                pause = self.limits.receipt_s * PAUSE_FACTOR ** min(entry.breaks, _CAPPED_DOUBLINGS)
                entry.due_s = now_s + _jittered(min(pause, self.limits.pause_max_s), jitter)
            else:
                self._suspects[digest], entry.due_s = entry, now_s
        for entry in self._entries.values():
            if entry.acked and entry.passed_over < 2:
                entry.due_s = now_s
            entry.sequence, entry.acked, entry.first_s = -1, False, None
        self._wire.clear()
        self._receipted = -1
        self._probe_due_s = min(self._probe_due_s, now_s)
        return blamed

    def stalled_s(self, now_s: float) -> float:
        """How long the oldest segment on the wire has waited for its PUBACK, in seconds; 0 when none is."""
        return max((now_s - entry.sent_s for entry in self._wire.values()), default=0.0)

    @property
    def on_wire(self) -> int:
        """Segments sent and not yet acknowledged by the broker."""
        return len(self._wire)

    @property
    def silent(self) -> bool:
        """The collector has not answered for longer than a receipt takes."""
        return self._probes > 0

    def troubles(self) -> list[Trouble]:
        """Segments that failed more often than bad luck explains, oldest first."""
        found: list[Trouble] = []
        for entry in (*self._lanes[0], *self._lanes[1]):
            if not entry.settled and self._too_large(entry.row):
                found.append(
                    Trouble(entry.row, Why.TOO_LARGE, entry.attempts, self.largest_passed, self._max_packet)
                )
            elif not entry.settled and (entry.breaks > 1 or entry.passed_over > 1):
                why = Why.BREAKS if entry.breaks > 1 else Why.PASSED_OVER
                found.append(Trouble(entry.row, why, entry.attempts, self.largest_passed))
        return found

    def _choose(self, now_s: float, jitter: float, alarms_only: bool) -> _Entry | None:
        alarms, telemetry = self._lanes[0], [] if alarms_only else self._lanes[1]
        if sum(e.sent and not e.held for e in alarms) < self.limits.alarms:
            alarm = next((e for e in alarms if self._ready(e, now_s)), None)
            if alarm is not None:
                return alarm
        suspects = [
            e for e in self._suspects.values()
            if not e.sent and now_s >= e.due_s and not self._too_large(e.row)
            and (e.row.lane == LANE_ALARM or not alarms_only)
        ]  # fmt: skip
        if self._wire and (suspects or any(digest in self._suspects for digest in self._wire)):
            return None
        if suspects:
            return min(suspects, key=lambda e: (e.row.lane, e.row.size, e.row.id))
        return self._telemetry(telemetry, now_s, jitter)

    def _telemetry(self, telemetry: Sequence[_Entry], now_s: float, jitter: float) -> _Entry | None:
        overdue = next((e for e in self._lanes[0] if self._unanswered(e, now_s)), None)
        held = waiting = 0
        for entry in telemetry:
            if entry.held or self._too_large(entry.row):
                held += 1
            elif entry.sequence >= 0:
                waiting += 1
                if overdue is None and self._unanswered(entry, now_s):
                    overdue = entry
        if overdue is not None or self.silent:
            if self.silent and now_s < self._probe_due_s:
                return None
            probe = overdue or next((e for e in telemetry if self._ready(e, now_s)), None)
            if probe is not None:
                wait = self.limits.receipt_s * 2 ** min(self._probes, _CAPPED_DOUBLINGS)
                self._probe_due_s = now_s + _jittered(min(wait, self.limits.probe_max_s), jitter)
                self._probes += 1
            return probe
        if waiting >= self.limits.window or held > self.limits.held:
            return None
        wire = sum(e.row.size for e in self._wire.values())
        ready = next((e for e in telemetry if self._ready(e, now_s)), None)
        return ready if ready and (not wire or wire + ready.row.size <= self._wire_limit) else None

    def _ready(self, entry: _Entry, now_s: float) -> bool:
        """May be sent: new on this connection, or passed over and its pause is over."""
        if entry.settled or now_s < entry.due_s or entry.row.hash in self._suspects:
            return False
        if self._too_large(entry.row):
            return False
        if not entry.sent:
            return True
        if entry.acked and entry.sequence < self._receipted:
            entry.passed_over += 1
            entry.sequence = -1
            return True
        return False

    def _too_large(self, row: Row) -> bool:
        return self._max_packet is not None and packet_bytes(self._topic_bytes, row.size) > self._max_packet

    def _unanswered(self, entry: _Entry, now_s: float) -> bool:
        """Acknowledged, overdue, and nothing later was receipted either."""
        return entry.acked and not entry.settled and now_s >= entry.due_s and entry.sequence > self._receipted


def packet_bytes(topic_bytes: int, payload_bytes: int) -> int:
    """Bytes of an MQTT 5 PUBLISH packet of QoS 1 without properties (MQTT 5 sections 2.1.4 and 3.3)."""
    remaining = 2 + topic_bytes + 2 + 1 + payload_bytes
    return 1 + max(1, -(-remaining.bit_length() // 7)) + remaining


def _jittered(seconds: float, jitter: float) -> float:
    """`seconds` more or less a quarter, so that nodes that failed together do not return together."""
    return seconds * (0.75 + 0.5 * jitter)
