"""What passes over `facts.sock`: the one way in which other processes of a node reach the edge.

A message is a u32 big-endian length and that many bytes of deterministic CBOR. Request `{0: verb, ...}`,
answer `{0: "ok", 1: result, ...}` or `{0: "error", 1: text}`; the answer comes after the commit.

    receipt {1: receipt bytes}       -> {1: rows deleted, 2: rows remembered until they can be deleted}
    fact    {1: source, 2: text}     -> {1: seq}
    status  {}                       -> {1: JSON text}
    seal    {}                       -> {1: events left unsealed, which is 0}
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from edge.errors import EdgeError
from firmware_bridge.errors import WireError
from firmware_bridge.wire import cbor

LENGTH: Final = struct.Struct(">I")
MAX_MESSAGE: Final = 1 << 20
"""Bytes; a receipt over 500 segments has about 25 kB, a status below 64 kB."""
MAX_SOURCE: Final = 64
"""Characters of a fact's source: the name of a process."""
MAX_TEXT: Final = 2048
"""Bytes of a fact's text: with its frame it must fit into one event of 4096 bytes."""


class FactsError(EdgeError):
    """A message on facts.sock is not one of ours, or the edge refused what it asked."""


@dataclass(frozen=True, slots=True)
class ReceiptIn:
    """The collector's receipt, to be checked by the edge."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FactIn:
    """Something another process saw, to be accepted as an event."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class StatusIn:
    """How is it going?"""


@dataclass(frozen=True, slots=True)
class SealIn:
    """Commit and seal what is in hand now."""


Request: TypeAlias = ReceiptIn | FactIn | StatusIn | SealIn
Fields: TypeAlias = dict[int, cbor.Value]


def frame(fields: Fields) -> bytes:
    """`fields` with their length in front. Raises FactsError when they are too large."""
    data = cbor.encode(dict(fields))
    if len(data) > MAX_MESSAGE:
        raise FactsError(f"message of {len(data)} bytes, at most {MAX_MESSAGE}")
    return LENGTH.pack(len(data)) + data


def length(header: bytes) -> int:
    """The length a 4-byte header announces. Raises FactsError when it is not allowed."""
    (size,) = LENGTH.unpack(header)
    if not 0 < size <= MAX_MESSAGE:
        raise FactsError(f"message of {size} bytes, from 1 to {MAX_MESSAGE} are read")
    return int(size)


def fields(data: bytes) -> Fields:
    """The map of one message's body. Raises FactsError."""
    try:
        value = cbor.decode(data, max_bytes=MAX_MESSAGE)
    except WireError as error:
        raise FactsError(str(error)) from error
    if not isinstance(value, dict):
        raise FactsError("a message is a map")
    return value


def request(data: bytes) -> Request:
    """The request in one message's body. Raises FactsError that says what is wrong with it."""
    match fields(data):
        case {0: "receipt", 1: bytes() as receipt, **rest} if not rest:
            return ReceiptIn(receipt)
        case {0: "fact", 1: str() as source, 2: str() as text, **rest} if not rest:
            if not 0 < len(source) <= MAX_SOURCE or len(text.encode()) > MAX_TEXT:
                raise FactsError(
                    f"a fact: source of 1 to {MAX_SOURCE} characters, text up to {MAX_TEXT} bytes"
                )
            return FactIn(source, text)
        case {0: "status", **rest} if not rest:
            return StatusIn()
        case {0: "seal", **rest} if not rest:
            return SealIn()
        case {0: str() as verb}:
            raise FactsError(f"verb {verb[:32]!r} is not known, or its arguments are not of its form")
    raise FactsError("a request names its verb under key 0")


def ok(*results: cbor.Value) -> Fields:
    """An answer with its results under 1, 2, ..."""
    return {0: "ok", **dict(enumerate(results, 1))}


def error(text: str) -> Fields:
    """A refusal that says why."""
    return {0: "error", 1: text[:500]}


def result(answer: Fields) -> Fields:
    """The answer when it is "ok". Raises FactsError with the edge's text otherwise."""
    match answer:
        case {0: "ok"}:
            return answer
        case {0: "error", 1: str() as text}:
            raise FactsError(text)
    raise FactsError("the answer is neither ok nor an error")
