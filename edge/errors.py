"""Errors of the edge.

EdgeError
├── ConfigError     the operator: the configuration cannot be meant; says where and what to do
├── FormatError     bytes are not an event, segment or receipt of ours
├── ReceiptError    a receipt that must not be believed (key, origin, device, hash)
├── NoteError       a checkpoint or signed note that must not be believed
├── ProofError      an inclusion or consistency proof that does not hold
└── StoreError      the outbox cannot do what was asked
    ├── StoreFull   no space: nothing was accepted, try again when there is room
    └── StoreReadOnly
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error this package raises."""


class ConfigError(EdgeError):
    """The configuration cannot be meant."""


class FormatError(EdgeError):
    """Bytes are not an event, a segment or a receipt of ours."""


class ReceiptError(EdgeError):
    """A receipt that must not be believed."""


class NoteError(EdgeError):
    """A signed note or checkpoint that must not be believed."""


class ProofError(EdgeError):
    """A Merkle proof that does not hold."""


class StoreError(EdgeError):
    """The outbox cannot do what was asked."""


class StoreFull(StoreError):
    """No space: nothing was accepted."""


class StoreReadOnly(StoreError):
    """The state folder cannot be written."""
