"""Frames of the MCU link: COBS around (version, type, sequence, CBOR, CRC-32), ended by a zero byte.

    COBS( version u8 | type u8 | seq u8 | CBOR | crc32 little endian over all before it ) 0x00

COBS (Cheshire and Baker, 1999) takes every zero out of a frame, so a zero byte always ends one: after any
damage the receiver is in step again at the next frame. CRC-32 is zlib's. The receive buffer is bounded.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final, TypeAlias

from firmware_bridge.errors import FrameError

VERSION: Final = 1
"""First byte of every frame; a board that speaks another version is refused, not guessed at."""
MAX_FRAME: Final = 2048
"""Longest frame on the wire in bytes, without its delimiter: 0.3 s of raw 3-axis vibration at 1 kHz."""
SAMPLE_BYTES: Final = 32
"""How much of a refused frame is kept for the quarantine."""
_DELIMITER: Final = b"\0"
_HEADER: Final = 3
_CRC: Final = 4
_GROUP: Final = 254
"""Most bytes behind one COBS code byte."""


@unique
class FrameType(IntEnum):
    """What a frame carries."""

    HELLO = 1
    DATA = 2
    ACK = 3
    LOG = 4
    TIME = 5
    BOOT = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """An intact frame."""

    type: int
    """A FrameType, or a number of a newer board that is not known here."""
    seq: int
    """0 .. 255, one more than the frame before, so that loss is seen."""
    payload: bytes
    """CBOR."""


class BadFrame(FrameError):
    """Bytes between two delimiters that are no frame, with the reason they are counted under."""

    def __init__(self, reason: str, sample: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        """Short snake_case word: bad_cobs, bad_crc, too_short, too_long or unknown_version."""
        self.sample = sample[:SAMPLE_BYTES]


Deframed: TypeAlias = "Frame | BadFrame"


def cobs_encode(data: bytes) -> bytes:
    """`data` without any zero byte: at most one byte in 254 longer, plus one."""
    out: list[bytes] = []
    blocks = data.split(_DELIMITER)
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        start = 0
        while len(block) - start >= _GROUP:
            out += (b"\xff", block[start : start + _GROUP])
            start += _GROUP
        # A full group at the very end needs no code byte behind it.
        if index < last or start < len(block) or start == 0:
            rest = block[start:]
            out += (bytes((len(rest) + 1,)), rest)
    return b"".join(out)


def cobs_decode(data: bytes) -> bytes:
    """The bytes behind `data`. Raises FrameError when it holds a zero or its codes do not fit."""
    if 0 in data:
        raise FrameError("zero byte inside a COBS frame")
    buffer = bytearray(data)
    size = len(buffer)
    position = 0
    full: list[int] = []
    # Every code byte is where a zero was, except behind a full group and at the start.
    while position < size:
        code = buffer[position]
        buffer[position] = 0
        position += code
        if code == _GROUP + 1:
            full.append(position)
    if position != size:
        raise FrameError("COBS code points beyond the frame")
    for place in reversed(full):
        if place < size:
            del buffer[place]
    return bytes(buffer[1:])


def frame(type: int, seq: int, cbor_bytes: bytes) -> bytes:
    """The bytes of one frame as they go on the wire, delimiter included.

    `type` and `seq` are 0 .. 255. Raises FrameError when the frame would be longer than MAX_FRAME.
    """
    head = bytes((VERSION, type, seq)) + cbor_bytes
    encoded = cobs_encode(head + zlib.crc32(head).to_bytes(_CRC, "little"))
    if len(encoded) > MAX_FRAME:
        raise FrameError(f"frame of {len(encoded)} bytes, at most {MAX_FRAME} are sent: split it")
    return encoded + _DELIMITER


class Deframer:
    """Bytes in any portions -> frames. Holds at most `max_frame` bytes, whatever is thrown at it."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max = max_frame
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[Deframed]:
        """The frames that `data` completes, and for each damaged one a BadFrame with its reason."""
        parts = (self._rest + data).split(_DELIMITER)
        self._rest = parts.pop()
        out: list[Deframed] = []
        for part in parts:
            if self._skipping:
                self._skipping = False
            elif part:
                out.append(self._open(part))
        if self._skipping:
            self._rest = b""
        elif len(self._rest) > self._max:
            out.append(BadFrame("too_long", self._rest))
            self._rest = b""
            self._skipping = True
        return out

    def reset(self) -> None:
        """Forget a frame that had begun: the port was reopened."""
        self._rest = b""
        self._skipping = False

    @property
    def held(self) -> int:
        """Bytes held of a frame that has begun."""
        return len(self._rest)

    def _open(self, part: bytes) -> Deframed:
        if len(part) > self._max:
            return BadFrame("too_long", part)
        try:
            raw = cobs_decode(part)
        except FrameError:
            return BadFrame("bad_cobs", part)
        if len(raw) <= _HEADER + _CRC:
            return BadFrame("too_short", part)
        body, crc = raw[:-_CRC], raw[-_CRC:]
        if zlib.crc32(body) != int.from_bytes(crc, "little"):
            return BadFrame("bad_crc", part)
        if body[0] != VERSION:
            return BadFrame("unknown_version", part)
        return Frame(body[1], body[2], body[_HEADER:])
