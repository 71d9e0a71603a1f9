"""Vehicle numbers at the door: one spelling, one keyed hash, and nothing of them behind it.

The form is ISO 3779's (17 characters, no I, O or Q, the last four digits). 49 CFR 565.15(c) and GB 16735
annex A make position 9 a check digit in North America and China; elsewhere it is free. A wrong check digit
is counted and the sale kept: the price was paid, and the same misread number still names the same car.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

VIN_CHARS: Final = 17
KEY_BYTES: Final = 32
"""Length of a folder's key: the output size of SHA-256 (RFC 2104 section 3)."""
CAR_HEX: Final = 32
"""128 bits of the hash: no two cars of any market meet by chance."""
FORM: Final = r"^[A-HJ-NPR-Z0-9]{13}[0-9]{4}$"
"""A normalised vehicle number, as a regular expression in the regular expressions of polars."""
INSIDE: Final = r"(?i-u:\b)(?i:[A-HJ-NPR-Z0-9]{13})[0-9]{4}(?i-u:\b)"
"""A vehicle number within a longer text, in the regular expressions of polars."""
CHECK_RULES: Final = frozenset({"US", "CN"})
"""Markets whose every number has a check digit."""
_DOMAIN_VIN: Final = b"holdfast market vin 1\0"
_DOMAIN_CAR: Final = b"holdfast market car 1\0"
_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
_VALUES: Final = "012345678912345678123457923456789"
"""Transliteration of 49 CFR 565.15(c)(2)(i), table III."""
_WEIGHTS: Final = np.array((8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2), dtype=np.int32)
_CHECK_AT: Final = 8
_MIN_DISTINCT: Final = 4
"""Fewer distinct characters than this is a key held down, not a vehicle."""
_COUNTING: Final = "1234567890" * 3
"""Digits in counting order are what people type into a mandatory field."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]

_TABLE: Final = np.zeros(256, dtype=np.int32)
for _char, _value in zip(_ALPHABET, _VALUES, strict=True):
    _TABLE[ord(_char)] = int(_value)


def made_up(vins: list[str]) -> Flags:
    """Which texts of 17 ASCII characters are fillers ("unknown" of diagnostic tools, a key held down)."""
    ordered = np.sort(_codes(vins), axis=1)
    few = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) < _MIN_DISTINCT - 1
    counting = np.array([one in _COUNTING for one in vins], dtype=np.bool_)
    return np.asarray(few | counting)


def _codes(vins: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer("".join(vins).encode("ascii"), dtype=np.uint8).reshape(-1, VIN_CHARS)


def check_digits_fail(vins: list[str], rule: str) -> int:
    """How many of these normalised numbers have a wrong check digit where one is due.

    Due everywhere under the rule "US" or "CN"; else only for numbers of North America (first digit 1 to 5).
    """
    if not vins:
        return 0
    codes = _codes(vins)
    remainder = (_TABLE[codes] * _WEIGHTS).sum(axis=1) % 11
    want = np.where(remainder == 10, ord("X"), remainder + ord("0"))
    wrong = codes[:, _CHECK_AT] != want
    if rule not in CHECK_RULES:
        wrong &= (codes[:, 0] >= ord("1")) & (codes[:, 0] <= ord("5"))
    return int(wrong.sum())


def hash_vin(vin: str, key: bytes) -> str:
    """The car of a normalised vehicle number."""
    return hmac.digest(key, _DOMAIN_VIN + vin.encode("ascii"), "sha256").hex()[:CAR_HEX]


def hash_parts(parts: Iterable[str], key: bytes) -> str:
    """The car of identifying columns, for sources without vehicle numbers."""
    return hmac.digest(key, _DOMAIN_CAR + SEPARATOR.join(parts).encode("utf-8", "replace"), "sha256").hex()[
        :CAR_HEX
    ]


SEPARATOR: Final = "\x1f"
"""Between the fields of a row that is hashed."""


def row_id(fields: list[str], whole: str, vin_at: int | None, key: bytes) -> int:
    """64 bits that name a source row; `whole` is its fields joined by SEPARATOR.

    Without a vehicle number: BLAKE2b of the fields. With one, the number would be recoverable from such a
    hash by trial, so it enters only the low 24 bits, and those are keyed; the high 40 bits are the same
    whatever the key, so tables of different folders sort alike.
    """
    if vin_at is None:
        return int.from_bytes(hashlib.blake2b(whole.encode("utf-8", "replace"), digest_size=8).digest())
    rest = SEPARATOR.join(fields[:vin_at] + fields[vin_at + 1 :])
    high = hashlib.blake2b(rest.encode("utf-8", "replace"), digest_size=5).digest()
    low = hashlib.blake2b(whole.encode("utf-8", "replace"), digest_size=3, key=key).digest()
    return int.from_bytes(high + low)


def shape(text: str, limit: int = 24) -> str:
    """What `text` looks like and not what it says: letters become a, digits 9; at most `limit` characters."""
    masked = "".join(
        "9" if char.isdigit() else "a" if char.isalpha() else char if char.isprintable() else "?"
        for char in text
    )
    return masked if len(masked) <= limit else masked[: limit - 1] + "…"
