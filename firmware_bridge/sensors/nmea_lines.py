"""Bytes -> intact NMEA 0183 sentences, whatever lies between them.

A piece ends at CR, at LF, before the next `$`, or two digits after its `*`; so a sentence that was cut off
costs only itself, and a missing line end costs nothing. What is no intact sentence is refused with a reason.
The result does not depend on how the bytes were portioned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Final, TypeAlias

MAX_SENTENCE: Final = 256
"""Bytes from `$` to the check sum. The standard says 82; receivers with several constellations and long
proprietary sentences pass it, and 256 also bounds what is held while a line has no end."""
_CUT: Final = re.compile(rb"[\r\n]|(?=\$)")
_DOLLAR: Final = ord("$")
_BANG: Final = ord("!")
_SUMS: Final = {
    (high + low).encode() + end: int(high + low, 16)
    for high, low in product("0123456789ABCDEFabcdef", repeat=2)
    for end in (b"", b"\r")
}
_LINE_SUMS: Final = {tail: total ^ _DOLLAR for tail, total in _SUMS.items()}
"""What stands behind `*` on a line -> the XOR of all before the `*`, the `$` with it."""
_LANE: Final = 128
"""Bytes given to each line when the sums of many are taken at once; a power of two."""
_GROUP: Final = 256
"""Lines summed at once; bounds the working space at 32 kB."""

Refuse: TypeAlias = Callable[[str, bytes], None]
"""Takes a reason and the bytes refused."""


def xor(body: bytes) -> int:
    """All bytes of `body` XORed: the check sum of NMEA 0183 section 5.3.4 is that of `$` to `*`."""
    size = _LANE
    while size < len(body):
        size *= 2
    return _lane_sums(body.ljust(size, b"\0"), size)[0]


def _lane_sums(padded: bytes, lane: int) -> bytes:
    """The XOR of each lane of `padded`, a byte a lane.

    One long integer is folded onto itself: with every halving the lower part of each lane takes up its
    upper part, until the lowest byte holds all. What a lane's upper part takes from its neighbour is never
    used. Ten times faster than a loop over the bytes.
    """
    folded = int.from_bytes(padded, "big")
    shift = lane * 4
    while shift >= 8:
        folded ^= folded >> shift
        shift >>= 1
    return folded.to_bytes(len(padded), "big")[lane - 1 :: lane]


class SentenceSplitter:
    """Cuts a stream into sentences; holds at most MAX_SENTENCE bytes of one that has begun."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self._rest = b""
        self._skipping = False

    @property
    def held(self) -> int:
        """Bytes held of a line that has no end yet."""
        return len(self._rest)

    def reset(self) -> None:
        """Forget a line that had begun."""
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every intact sentence that `data` completes, from its `$` or `!` to before the `*`, in order.

        What lies between goes to `refuse` as the iteration passes it. Iterate to the end.
        """
        lines = (self._skip(data) if self._skipping else self._rest + data).split(b"\n")
        rest = lines.pop()
        self._rest = b""
        for start in range(0, len(lines), _GROUP):
            yield from self._group(lines[start : start + _GROUP])
        if rest:
            yield from self._keep(rest)

    def _group(self, lines: list[bytes]) -> Iterator[bytes]:
        """Whole lines: the usual case, one sentence a line and every sum right, for all of them at once."""
        parts = [line.partition(b"*") for line in lines]
        padded = b"".join([part[0].ljust(_LANE, b"\0") for part in parts])
        count = len(parts)
        if len(padded) != _LANE * count:  # a line longer than a lane
            for line in lines:
                yield from self._pieces(line)
            return
        sums = list(_lane_sums(padded, _LANE))
        given = [_LINE_SUMS.get(part[2]) for part in parts]
        # A dollar at the start of each line and nowhere else, and no line end within.
        starts = padded[::_LANE] == b"$" * count and padded.count(b"$") == count
        if starts and sums == given and b"\r" not in padded:
            for part in parts:
                yield part[0]
            return
        for line, (body, _, _), total, wanted in zip(lines, parts, sums, given, strict=True):
            if total == wanted and body.rfind(b"$") == 0 and b"\r" not in body:
                yield body
            else:
                yield from self._pieces(line)

    def _skip(self, data: bytes) -> bytes:
        """What follows the end of an overlong piece; empty while it goes on."""
        found = _CUT.search(data)
        if found is None:
            return b""
        self._skipping = False
        return data[found.start() :]

    def _pieces(self, line: bytes) -> Iterator[bytes]:
        for piece in _CUT.split(line):
            piece = piece.strip(b" \t")
            if piece:
                yield from self._piece(piece)

    def _piece(self, piece: bytes) -> Iterator[bytes]:
        """What a piece holds: a sentence, and whatever stands behind its check sum; or garbage."""
        while piece:
            first = piece[0]
            if first not in (_DOLLAR, _BANG):
                self._refuse("garbage", piece)
                return
            star = piece.find(b"*", 0, MAX_SENTENCE + 1)
            if star < 0:
                self._refuse("too_long" if len(piece) > MAX_SENTENCE else "no_checksum", piece)
                return
            body = piece[:star]
            if _SUMS.get(piece[star + 1 : star + 3]) == xor(body) ^ first:
                yield body
            else:
                self._refuse("bad_checksum", piece)
            piece = piece[star + 3 :].strip(b" \t")

    def _keep(self, rest: bytes) -> Iterator[bytes]:
        """Hold of an unended line what must be held: the last piece, unless it is complete or too long."""
        cut = max(rest.rfind(b"\r") + 1, rest.rfind(b"$"))
        if cut > 0:
            yield from self._pieces(rest[:cut])
            rest = rest[cut:]
        rest = rest.lstrip(b" \t")
        while rest[:1] in (b"$", b"!"):
            star = rest.find(b"*", 0, MAX_SENTENCE + 1)
            if star < 0 or len(rest) < star + 3:
                break
            yield from self._piece(rest[: star + 3])
            rest = rest[star + 3 :].lstrip(b" \t")
        if len(rest) > MAX_SENTENCE + 2:
            self._refuse("too_long" if rest[0] in (_DOLLAR, _BANG) else "garbage", rest)
            self._skipping = True
            rest = b""
        self._rest = rest
