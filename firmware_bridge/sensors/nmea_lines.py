"""Bytes -> intact NMEA 0183 sentences, whatever lies between them.

A piece ends at CR, at LF, before the next `$`, or two digits after its `*`; so a sentence that was cut off
costs only itself, and a missing line end costs nothing. What is no intact sentence is refused with a reason.
The result does not depend on how the bytes were portioned.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import product
from typing import Final, TypeAlias

import numpy as np

MAX_SENTENCE: Final = 256
"""Bytes from `$` to the check sum. The standard says 82; receivers with several constellations and long
proprietary sentences pass it, and 256 also bounds what is held while a line has no end."""
_MAX_LINE: Final = MAX_SENTENCE + 3
"""With `*` and two digits."""
_CUT: Final = re.compile(rb"[\r\n]|(?=\$)")
_DOLLAR: Final = ord("$")
_BANG: Final = ord("!")
_SUMS: Final = {
    (high + low).encode() + end: int(high + low, 16)
    for high, low in product("0123456789ABCDEFabcdef", repeat=2)
    for end in (b"", b"\r")
}
_LINE_SUMS: Final = {
    b"*" + tail: reduce(operator.xor, tail, total ^ _DOLLAR ^ ord("*")) for tail, total in _SUMS.items()
}
"""How a right line ends -> the XOR of all its bytes, `$`, `*`, digits and CR with them."""
_MANY: Final = 24
"""From so many lines on their sums are taken by numpy; below, its fixed cost is larger than its gain."""

Refuse: TypeAlias = Callable[[str, bytes], None]
"""Takes a reason and the bytes refused."""


def xor(data: bytes) -> int:
    """All bytes of `data`, at most 512, XORed.

    The check sum of NMEA 0183 section 5.3.4 is that of all between `$` and `*`. The bytes are folded as one
    integer: with every halving the lower part takes up the upper one, until the lowest byte holds all.
    Several times faster than a loop over the bytes.
    """
    folded = int.from_bytes(data, "big")
    if len(data) > 128:
        folded ^= folded >> 2048
        folded ^= folded >> 1024
    folded ^= folded >> 512
    folded ^= folded >> 256
    folded ^= folded >> 128
    folded ^= folded >> 64
    folded ^= folded >> 32
    folded ^= folded >> 16
    return (folded ^ folded >> 8) & 0xFF


def _line_sums(block: bytes, lines: list[bytes]) -> list[int]:
    """The XOR of each of the `lines` that make up `block`, each ended by LF."""
    if len(lines) < _MANY:
        return [xor(line) if len(line) <= _MAX_LINE else -1 for line in lines]
    characters = np.frombuffer(block, np.uint8)
    starts = np.zeros(len(lines), np.intp)
    starts[1:] = np.flatnonzero(characters == 10)[:-1] + 1
    sums = np.bitwise_xor.reduceat(characters, starts) ^ 10
    found: list[int] = sums.tolist()
    return found


def _tidy(block: bytes, lines: list[bytes], tail: int) -> bool:
    """Whether each line is one sentence from its first byte to its end: `$`, `*` and CR once, in place."""
    count = len(lines)
    return (
        block.startswith(b"$")
        and block.count(b"\n$") == count - 1
        and block.count(b"$") == count
        and block.count(b"*") == count
        and block.count(b"\r") == (count if tail == 4 else 0)
        and max(map(len, lines)) <= _MAX_LINE
    )


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
        data = self._skip(data) if self._skipping else self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = b""
        if end:
            yield from self._whole_lines(data[:end])
        if end < len(data):
            yield from self._keep(data[end:])

    def _whole_lines(self, block: bytes) -> Iterator[bytes]:
        lines = block.split(b"\n")
        lines.pop()
        sums = _line_sums(block, lines)
        tail = 4 if block.endswith(b"\r\n") else 3
        wanted = [_LINE_SUMS.get(line[-tail:]) for line in lines]
        if sums == wanted and _tidy(block, lines, tail):
            for line in lines:
                yield line[:-tail]
            return
        for line, total, right in zip(lines, sums, wanted, strict=True):
            if (
                total == right
                and line.rfind(b"$") == 0
                and line.find(b"*") == len(line) - tail
                and line.find(b"\r", 0, -1) < 0
                and len(line) <= _MAX_LINE
            ):
                yield line[:-tail]
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
