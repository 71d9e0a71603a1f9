"""Errors of the cloud, split by who must act.

CloudError
├── ConfigError         the operator: the configuration cannot be meant; says where and what to do
├── StoreError          the store cannot do what was asked
│   └── StoreBusy       full or locked right now: nothing was committed, repeat later
│       └── StoreReadOnly   cannot be opened or written: owner, mode or mount; somebody must act first
├── LogError            the log must not go on; the operator decides
│   ├── Fenced          another sequencer has taken over: this process must end
│   ├── RolledBack      the store is behind, or differs from, a checkpoint that was published: never sign
│   └── LogDamaged      entries, tiles and checkpoints of the store do not agree
├── CertificateError    a device's certificate is not one that its CA issued for events of that device
├── BundleError         bytes are not an evidence bundle, or one cannot be made of what is stored
├── NotFound            what was asked for is not in the store
├── BadRequest          the caller: what was asked cannot be meant; says what to ask instead
│   └── BadCursor       a cursor that this store did not make for this list: begin again without it
├── Denied              this principal must not do that
└── Conflict            somebody else acted since: read again and decide
"""

from __future__ import annotations


class CloudError(Exception):
    """Base of every error this package raises."""


class ConfigError(CloudError):
    """The configuration cannot be meant."""


class StoreError(CloudError):
    """The store cannot do what was asked."""


class StoreBusy(StoreError):
    """Full, locked or read-only right now: nothing was committed."""


class StoreReadOnly(StoreBusy):
    """The store's folder cannot be written: its owner, mode or mount must be put right."""


class LogError(CloudError):
    """The log must not go on."""


class Fenced(LogError):
    """Another sequencer has taken over."""


class RolledBack(LogError):
    """The store is behind a published checkpoint."""


class LogDamaged(LogError):
    """Entries, tiles and checkpoints of the store do not agree."""


class CertificateError(CloudError):
    """Not a certificate of a device's event key."""


class BundleError(CloudError):
    """Not an evidence bundle."""


class NotFound(CloudError):
    """What was asked for is not in the store."""


class BadRequest(CloudError):
    """What was asked cannot be meant."""


class BadCursor(BadRequest):
    """Not a cursor that this store made for this list."""


class Denied(CloudError):
    """This principal must not do that."""


class Conflict(CloudError):
    """Somebody else acted since."""
