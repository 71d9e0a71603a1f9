"""Errors of the title ledger.

LedgerError (a cloud_sync.errors.CloudError)
├── VinError          the vehicle identification number cannot become a title; says which rule
├── Refused           the contract's rules say no; nothing was written
│   ├── NotAllowed    this organisation's role may not call this function
│   └── WrongState    the title is not in a state in which this can happen
└── Conflict          another call changed what this one had read: read again and decide
"""

from __future__ import annotations

from cloud_sync.errors import CloudError


class LedgerError(CloudError):
    """Base of every error of the ledger."""


class VinError(LedgerError):
    """The vehicle identification number cannot become a title."""


class Refused(LedgerError):
    """The contract's rules say no; nothing was written."""


class NotAllowed(Refused):
    """This organisation's role may not call this function."""


class WrongState(Refused):
    """The title is not in a state in which this can happen."""


class Conflict(LedgerError):
    """Another call changed what this one had read."""
