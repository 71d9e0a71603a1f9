"""A real log as a script: its bytes unchanged, its own clock as the pace.

Bytes are kept exactly as they are, with NULs, garbage and comments. Time comes from the log's RMC
sentences (from GGA, ZDA or GLL, whichever it has most of, where RMC is missing or rare); a sentence with a
bad checksum tells no time. A time that repeats or goes back a little adds none, midnight is passed, a gap
is played as a gap. Where the date jumps other than between two fixes, the receiver's clock was set and
nobody knows how long that took: the jump counts as one second. A log without any time (binary receivers)
is played at one line in 100 ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import xor
from typing import Final

from firmware_bridge.errors import DecodeError
from firmware_bridge.sim import genivi
from firmware_bridge.sim.script import GNSS, NS, Chunk, PhaseMark, PortSpec, Script
from firmware_bridge.wire.stamp import ClockKind

MAX_LOG_BYTES: Final = 1 << 30
"""A week of a chatty receiver is 0.5 GB; more than twice that is not a log somebody means to replay."""
UNTIMED_LINE_NS: Final = NS // 10
"""Pace of a log that tells no time."""
_DAY_S: Final = 86_400.0
_BACK_S: Final = 10.0
"""A time back by less is jitter between sentences; by more, the receiver's clock was set."""
_SET_S: Final = 600.0
"""Where the date jumps, a forward step of the time of day up to this is still believed."""
_LONGEST_S: Final = 31 * _DAY_S
"""A pause between two dated fixes up to this is a gap; a longer one is a week-number correction."""
_BAUD: Final = 9600
"""What NMEA 0183 receivers start with; a pty does not care."""
_SENTENCE: Final = re.compile(rb"\$([A-Z]{2})(RMC|GGA|ZDA|GLL),([^$\r\n\0]*)")
_TIME: Final = re.compile(rb"([01]\d|2[0-3])([0-5]\d)([0-5]\d|60)(\.\d+)?")
_SOURCES: Final = (b"RMC", b"GGA", b"ZDA", b"GLL")


@dataclass(frozen=True, slots=True)
class _Told:
    """What one sentence says of time."""

    line: int
    source: bytes
    day_s: float
    """Seconds since midnight UTC."""
    date: tuple[int, int, int] | None
    """Year, month, day as the receiver says; a two-digit year from 80 is 19xx."""
    valid: bool


def replay(name: str, data: bytes, *, floor_ns: int) -> Script:
    """The log `data` as a script; `floor_ns` is the wall time assumed where the log tells no date.

    Raises DecodeError where there is nothing to play.
    """
    if not data.strip(b"\0 \t\r\n"):
        raise DecodeError("the log is empty: choose a file with a receiver's output")
    if genivi.recognised(data):
        return genivi.script(name, data, floor_ns=floor_ns)
    lines = data.splitlines(keepends=True) if b"\n" not in data else _lines(data)
    told = [found for number, line in enumerate(lines) for found in _told(number, line)]
    source = _pace_maker(told)
    if source is None:
        times = [number * UNTIMED_LINE_NS for number in range(len(lines))]
        epoch_ns = floor_ns
    else:
        times, anchors = _paced(lines, told, source)
        epoch_ns = _epoch(anchors, told, floor_ns)
    return Script(
        name=name,
        kind=ClockKind.REPLAY,
        epoch_wall_ns=epoch_ns,
        duration_s=times[-1] / NS,
        ports=(PortSpec(GNSS, "nmea", _BAUD, "vehicle"),),
        play=lambda: _chunks(lines, times),
        phases=(PhaseMark(0.0, "replay", f"replaying {name}"),),
    )


def _pace_maker(told: list[_Told]) -> bytes | None:
    """The kind of sentence that paces the log: RMC unless it is rare, else the most frequent one."""
    counts = {kind: sum(item.source == kind for item in told) for kind in _SOURCES}
    most = max(counts, key=lambda kind: counts[kind])
    if counts[most] == 0:
        return None
    return b"RMC" if 2 * counts[b"RMC"] >= counts[most] else most


def _lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def _told(number: int, line: bytes) -> Iterator[_Told]:
    """What the sentences of one line say of time; damaged ones say nothing."""
    for match in _SENTENCE.finditer(line):
        body, star, check = match[3].partition(b"*")
        if star and check[:2].upper() != b"%02X" % reduce(xor, match[0][1:].partition(b"*")[0], 0):
            continue
        fields = body.split(b",")
        kind = match[2]
        at = 4 if kind == b"GLL" else 0
        time = _TIME.fullmatch(fields[at]) if len(fields) > at else None
        if time is None:
            continue
        day_s = int(time[1]) * 3600 + int(time[2]) * 60 + int(time[3]) + float(time[4] or 0)
        yield _Told(number, kind, day_s, _date(kind, fields), kind == b"RMC" and fields[1:2] == [b"A"])


def _date(kind: bytes, fields: list[bytes]) -> tuple[int, int, int] | None:
    if kind == b"RMC" and len(fields) > 8 and len(fields[8]) == 6 and fields[8].isdigit():
        day, month, short = int(fields[8][:2]), int(fields[8][2:4]), int(fields[8][4:])
        year = short + (2000 if short < 80 else 1900)
    elif kind == b"ZDA" and len(fields) > 3 and all(part.isdigit() for part in fields[1:4]):
        day, month, year = (int(part) for part in fields[1:4])
    else:
        return None
    try:
        datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return None
    return year, month, day


def _step_s(before: _Told, now: _Told) -> float:
    """Seconds that passed between two times; never below 0."""
    delta = now.day_s - before.day_s
    if delta < -_DAY_S / 2:
        delta += _DAY_S
    if before.date and now.date and before.date != now.date:
        days = (datetime(*now.date, tzinfo=UTC) - datetime(*before.date, tzinfo=UTC)).days
        whole = days * _DAY_S + now.day_s - before.day_s
        if before.valid and now.valid and before.date[0] >= 2000 and 0.0 <= whole <= _LONGEST_S:
            return whole
        if abs(whole - delta) > 1.0:
            return delta if 0.0 < delta <= _SET_S else 1.0
    return max(0.0, delta)


def _paced(lines: list[bytes], told: list[_Told], source: bytes) -> tuple[list[int], list[tuple[_Told, int]]]:
    """The time of every line in nanoseconds, and of every sentence of `source`."""
    times = [0] * len(lines)
    anchors: list[tuple[_Told, int]] = []
    last: _Told | None = None
    others: list[_Told] = []
    now_ns, filled = 0, 0
    for item in told:
        if item.source != source:
            others.append(item)
            continue
        then_ns = now_ns
        if last is None:
            last = item
        else:
            back = -_BACK_S < item.day_s - last.day_s <= 0.0 and item.date == last.date
            if not back:
                now_ns += round(_step_s(last, item) * NS)
                last = item
        # Sentences of this epoch that came before its RMC belong to it, not to the one before.
        first = next((other.line for other in others if other.day_s == item.day_s), item.line)
        for number in range(filled, max(filled, first)):
            times[number] = then_ns
        filled = max(filled, first)
        anchors.append((item, now_ns))
        others = []
        for number in range(filled, item.line + 1):
            times[number] = now_ns
        filled = max(filled, item.line + 1)
    for number in range(filled, len(lines)):
        times[number] = now_ns
    return times, anchors


def _epoch(anchors: list[tuple[_Told, int]], told: list[_Told], floor_ns: int) -> int:
    """Wall time of the first byte: from the first date that a fix vouches for, else any from 2000 on."""
    dated = [(item, t_ns) for item, t_ns in anchors if item.date and item.date[0] >= 2000]
    if not dated:
        zda = next((item for item in told if item.date and item.date[0] >= 2000), None)
        if zda is None:
            return floor_ns
        dated = [(zda, next((t_ns for item, t_ns in anchors if item.line >= zda.line), 0))]
    item, t_ns = next(((item, t_ns) for item, t_ns in dated if item.valid), dated[0])
    if item.date is None:
        return floor_ns
    midnight = round(datetime(*item.date, tzinfo=UTC).timestamp()) * NS
    return midnight + round(item.day_s * NS) - t_ns


def _chunks(lines: list[bytes], times: list[int]) -> Iterator[Chunk]:
    """Lines of one moment as one chunk."""
    start = 0
    for number in range(1, len(lines) + 1):
        if number == len(lines) or times[number] != times[start]:
            yield Chunk(times[start], GNSS, b"".join(lines[start:number]))
            start = number
