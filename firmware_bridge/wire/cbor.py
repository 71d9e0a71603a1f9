"""Deterministic CBOR (RFC 8949 section 4.2.1) for everything Holdfast signs or hashes.

The value set is kept so small that the encoding is deterministic by construction: 64-bit integers,
byte and text strings, booleans, null, arrays, and maps whose keys are non-negative integers. Floats
are refused: a scaled integer says its precision and cannot be NaN.

`decode` is strict: it accepts exactly the bytes that `encode` would produce, so that no two byte
strings mean the same thing. Trailing bytes, duplicate keys, indefinite lengths, tags and over-long
integers are all refused by the same check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

import cbor2

from firmware_bridge.errors import WireError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int, Value] | None"

MAX_BYTES: Final = 1 << 20
"""Largest item decoded, in bytes: a segment is at most 64 KiB, a bundle section below 1 MiB."""
MAX_DEPTH: Final = 16
"""Deepest nesting: an event needs 5; bounds recursion on hostile input."""
FAULTS: Final = (
    cbor2.CBORError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError,
    MemoryError, re.error,
)  # fmt: skip
"""What `cbor2.loads` raises on hostile bytes: 5.9 lets the errors of its tag decoders escape (decimal,
fraction, regular expression, date, UUID, a value that holds itself); 6.x wraps most of them."""
_INT_MAX: Final = (1 << 64) - 1
_INT_MIN: Final = -(1 << 63)
_PLAIN: Final = frozenset({bool, bytes, str, type(None)})
_CONTAINERS: Final = frozenset({list, tuple, dict})


def _check(value: object, depth: int) -> None:
    """Refuse what is outside the value set. Scalars inside containers are judged in their loop: most of a
    segment is small integers, and a call for each was the largest cost of ingest."""
    if depth >= MAX_DEPTH and type(value) in _CONTAINERS:
        raise WireError(f"CBOR nested deeper than {MAX_DEPTH}")
    if type(value) in (list, tuple):
        items: Iterable[object] = value  # type: ignore[assignment]
    elif isinstance(value, dict):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key <= _INT_MAX:
                raise WireError(f"map key {key!r} is not a non-negative integer")
        items = value.values()
    else:
        items = (value,)
    for item in items:
        kind = type(item)
        if kind is int or (kind not in _PLAIN and isinstance(item, int)):
            if not _INT_MIN <= item <= _INT_MAX:  # type: ignore[operator]
                raise WireError("integer outside 64 bits")
        elif kind in _CONTAINERS:
            _check(item, depth + 1)
        elif kind not in _PLAIN and not isinstance(item, (bytes, str)):
            raise WireError(f"{kind.__name__} has no place in signed CBOR; use a scaled integer")


def encode(value: Value) -> bytes:
    """`value` as deterministic CBOR. Raises WireError for a type outside the value set."""
    _check(value, 0)
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Value:
    """The value of `data`, which must be one whole item exactly as `encode` writes it.

    Raises WireError for anything else, whatever the CBOR library raised.
    """
    if len(data) > max_bytes:
        raise WireError(f"{len(data)} bytes of CBOR, at most {max_bytes} are read")
    try:
        value = cbor2.loads(data)
    except FAULTS as error:
        raise WireError(f"not CBOR: {type(error).__name__}") from error
    _check(value, 0)
    if cbor2.dumps(value, canonical=True) != data:
        raise WireError("CBOR is not in deterministic form, or bytes follow it")
    return value  # type: ignore[no-any-return]
