"""Errors of the bridge, split by who must act.

BridgeError
├── FrameError      the line: bytes were damaged or out of step; counted, the link goes on
├── DecodeError     the sender: an intact frame or sentence says something impossible
└── WireError       encoding: bytes are not what the wire format allows (CBOR, COSE)
    └── SignatureError

A port that is gone is no error: the link says so (PortCondition.ABSENT) and is opened again.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base of every error this package raises."""


class FrameError(BridgeError):
    """A frame was damaged: bad CRC, bad COBS, too long, too short."""


class DecodeError(BridgeError):
    """An intact frame or sentence carries a value that cannot be true."""


class WireError(BridgeError):
    """Bytes are not deterministic CBOR, or not the COSE message that was expected."""


class SignatureError(WireError):
    """A COSE signature does not verify, or its algorithm or key is not on the allow-list."""
