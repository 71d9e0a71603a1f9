"""Errors of the models package.

ModelError
├── ConfigError    limits that contradict each other
├── MarketError    sales that cannot be taken in
│   ├── MappingError   a mapping that cannot be meant, or that a file does not fit
│   └── Busy           another process writes to the market folder
└── ValuationError a vehicle, model, pack or policy that a price cannot be told from
    └── Misfit     model, pack, table and vehicle are not of one market, series or week
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error this package raises."""


class ConfigError(ModelError):
    """Limits or a fence that cannot be meant."""


class MarketError(ModelError):
    """A file or folder of sales that cannot be used; the text says what to do."""


class MappingError(MarketError):
    """A mapping that is wrong, or that does not fit the file."""


class Busy(MarketError):
    """Another process writes to this market folder."""


class ValuationError(ModelError):
    """What a price cannot be told from: refused rather than guessed. The text says what to do."""


class Misfit(ValuationError):
    """Files that are each sound, but not of one market, series or week."""
