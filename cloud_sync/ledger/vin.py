"""Vehicle identification numbers: one spelling, one token.

ISO 3779 gives the form (17 characters, no I, O or Q) and no check digit. 49 CFR 565.15(c) (United States)
and GB 16735-2019 annex A (China) make position 9 a check digit; European numbers use that position freely,
so the rule depends on the market. A number is normalised before it is looked at, and its token is a keyed
hash of the normalised form: whoever lacks the key cannot test a number against the log.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum, unique
from typing import Final

from cloud_sync.ledger.errors import VinError

VIN_CHARS: Final = 17
TOKEN_KEY_BYTES: Final = 32
"""Length of the registry's token key: the output size of SHA-256 (RFC 2104 section 3)."""
_MAX_RAW_CHARS: Final = 64
"""A typed number with blanks and hyphens has about 25 characters."""
_DOMAIN: Final = b"holdfast title token 1\0"
_REFERENCE_DOMAIN: Final = b"holdfast reference 1\0"
_IGNORED: Final = " \t\r\n-"
"""Blanks and hyphens, which forms and scanners add; no VIN contains them."""
_ALPHABET: Final = frozenset("0123456789ABCDEFGHJKLMNPRSTUVWXYZ")
_VALUES: Final = dict(
    zip("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", "012345678912345678123457923456789", strict=True)
)
"""Transliteration of 49 CFR 565.15(c)(2)(i), table III; GB 16735 annex A has the same."""
_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_CHECK_AT: Final = 8
_MIN_DISTINCT: Final = 4
"""Fewer distinct characters than this is a key held down, not a vehicle."""
_COUNTING: Final = "1234567890" * 3
"""Digits in counting order are what people type into a mandatory field."""
_SERIAL_DIGITS: Final = 4
"""The last four characters are digits (ISO 3779 section 4.4)."""


@unique
class Market(StrEnum):
    """Whose rules a number is held against."""

    CN = "CN"
    US = "US"
    EU = "EU"


CHECK_DIGIT_MARKETS: Final = frozenset({Market.CN, Market.US})


def normalise(text: str) -> str:
    """`text` in the one spelling that is hashed: upper case, without blanks and hyphens.

    Raises VinError for anything that is then not 17 characters of the VIN alphabet. Look-alike letters of
    other scripts are refused, never mapped: a mapping would be a guess about a vehicle.
    """
    if len(text) > _MAX_RAW_CHARS:
        raise VinError(f"a VIN has {VIN_CHARS} characters, this has {len(text)}")
    bare = "".join(char for char in text if char not in _IGNORED)
    if not bare.isascii():
        at = next(n for n, char in enumerate(bare, 1) if not char.isascii())
        raise VinError(
            f"character {at} is not an ASCII letter or digit: type the VIN from the vehicle's plate"
        )
    vin = bare.upper()
    if len(vin) != VIN_CHARS:
        raise VinError(f"a VIN has {VIN_CHARS} characters, this has {len(vin)}")
    for at, char in enumerate(vin, 1):
        if char in "IOQ":
            raise VinError(f"character {at} is {char}: a VIN has no I, O or Q (read 1 or 0)")
        if char not in _ALPHABET:
            raise VinError(f"character {at} is not a letter or digit")
    return vin


def check_digit(vin: str) -> str:
    """The check digit (0-9 or X) that a normalised VIN must have in position 9."""
    total = sum(int(_VALUES[char]) * weight for char, weight in zip(vin, _WEIGHTS, strict=True))
    return "0123456789X"[total % 11]


def validate(text: str, market: Market) -> str:
    """The normalised VIN of `text` if it can be a vehicle of `market`. Raises VinError saying the rule."""
    vin = normalise(text)
    if len(set(vin)) < _MIN_DISTINCT or vin in _COUNTING:
        raise VinError("that number is made up, not a vehicle's: read the VIN from the vehicle's plate")
    if not vin[-_SERIAL_DIGITS:].isdigit():
        raise VinError(f"the last {_SERIAL_DIGITS} characters of a VIN are digits")
    if market in CHECK_DIGIT_MARKETS and vin[_CHECK_AT] != check_digit(vin):
        raise VinError(
            f"check digit in position 9 is {vin[_CHECK_AT]}, the other characters give {check_digit(vin)}: "
            f"one character is misread, or the vehicle is not made for {market}"
        )
    return vin


def token_id(vin: str, key: bytes) -> str:
    """The title's token: 64 hexadecimal digits of HMAC-SHA256 over the normalised VIN.

    Raises VinError for a VIN that `normalise` refuses, ValueError for a key of another length.
    """
    return _keyed(_DOMAIN + normalise(vin).encode("ascii"), key)


def reference(kind: str, text: str, key: bytes) -> str:
    """A keyed hash of an owner or loan, so that neither stands in the contract's state or in the log."""
    return _keyed(_REFERENCE_DOMAIN + kind.encode() + b"\0" + text.strip().encode(), key)


def _keyed(data: bytes, key: bytes) -> str:
    if len(key) != TOKEN_KEY_BYTES:
        raise ValueError(f"a token key has {TOKEN_KEY_BYTES} bytes, this has {len(key)}")
    return hmac.new(key, data, hashlib.sha256).hexdigest()
