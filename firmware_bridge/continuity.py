"""What was read of a drive, in figures: readings by kind, refusals by reason, and the gaps.

A gap lies between two epochs of a receiver that are more than 1.5 s apart **by the receiver's own time**, so
it does not depend on how fast the bytes arrived. Time that goes back opens no gap, and neither does the time
of a receiver that has no fix and no trusted date: it does not know the time yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from firmware_bridge.reading import Position, PositionVoid, Reading, Refusal
from firmware_bridge.sensors.nmea_fields import DAY_MS, HALF_DAY_MS

GAP_MS: Final = 1500
"""Epochs of a 1 Hz receiver are a second apart; half of one is jitter."""
MAX_GAPS: Final = 1000
"""Entries kept of each list: weeks of a parked vehicle are nothing but gaps."""
MAX_NAMES: Final = 256
"""Different reasons counted; there are some forty."""

_Epoch = tuple[int, int | None]


class Continuity:
    """Counts for one node. Feed it every item that decoders give, and their epochs through `epoch`."""

    def __init__(self) -> None:
        self.readings: Counter[str] = Counter()
        """Readings by kind: the name of the reading's type in snake_case."""
        self.refused: Counter[str] = Counter()
        """Refusals by reason."""
        self.position_valid = 0
        self.position_estimated = 0
        """Part of `position_valid`."""
        self.position_void = 0
        self.gaps_s: list[int] = []
        """Whole seconds between epochs of a receiver more than 1.5 s apart, whatever they said."""
        self.fix_gaps_s: list[int] = []
        """The same between valid fixes."""
        self._last: dict[str, _Epoch] = {}
        self._last_fix: dict[str, _Epoch] = {}

    def count(self, items: Iterable[Reading | Refusal]) -> None:
        """Count what a decoder or a link gave."""
        for item in items:
            if isinstance(item, Refusal):
                known = item.reason in self.refused or len(self.refused) < MAX_NAMES
                self.refused[item.reason if known else "other"] += 1
                continue
            self.readings[_KINDS[type(item)]] += 1
            if isinstance(item, Position):
                self.position_valid += 1
                self.position_estimated += item.estimated
            elif isinstance(item, PositionVoid):
                self.position_void += 1

    def epoch(self, port: str, tod_ms: int, utc_ns: int | None, valid: bool) -> None:
        """One epoch of the receiver on `port`; made to be an NmeaDecoder's `on_time`."""
        if not valid and utc_ns is None:
            self._last.pop(port, None)
            return
        now = (tod_ms, utc_ns)
        _gap(self._last, port, now, self.gaps_s)
        if valid:
            _gap(self._last_fix, port, now, self.fix_gaps_s)


def _gap(last: dict[str, _Epoch], port: str, now: _Epoch, gaps: list[int]) -> None:
    before = last.get(port)
    last[port] = now
    if before is None:
        return
    if before[1] is not None and now[1] is not None:
        apart_ms = (now[1] - before[1]) // 1_000_000
    else:  # one date is not trusted: time of day alone, across midnight where that is the shorter way
        apart_ms = (now[0] - before[0] + HALF_DAY_MS) % DAY_MS - HALF_DAY_MS
    if apart_ms > GAP_MS and len(gaps) < MAX_GAPS:
        gaps.append((apart_ms + 500) // 1000)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


_KINDS: Final = {kind: _snake(kind.__name__) for kind in Reading.__args__}
